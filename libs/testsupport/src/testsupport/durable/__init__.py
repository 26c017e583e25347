"""Systems whose processes are killed for real, and what must be true of them in the end.

Read `harness` (the system and its processes), `program` and `shop` (what such a process does), `scenarios` (what happens
to a system), `checker` (what must be true then), `faults` and `planted` (what is broken on purpose).
"""
