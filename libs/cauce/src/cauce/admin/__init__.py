"""Looking after a system from outside, without its code: what stands behind the `cauce` command. Typed in, values out;
nothing here asks or prints.

Read `targets` (which services, where their databases and brokers are), `database` and `broker` (opened from outside),
then what is looked at: `status`, `descriptions`, `explaining`, `watching`, `doctor` (from `service_checks` and
`broker_checks`, with `verdicts`); then what is done: `replay` and `release` (with `selection` and `bulk`), `rewinding`,
`topics`, `tables`. `masking` and `short_ids` are for whoever shows it.
"""
