"""A project's servers and services on one machine, for development, demonstrations and tests.

`cauce dev` is the command; `cauce.dev.system.DevSystem` is the same thing as a library;
`cauce.dev.servers` holds the single servers. Linux and macOS; on Windows use WSL.

Read `plan` (which ports, which variables), `process` and `service` (one process; one that becomes ready), then `system`.
"""
