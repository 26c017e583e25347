"""Looking after a system from outside: what stands behind the `cauce` command and the health port."""
