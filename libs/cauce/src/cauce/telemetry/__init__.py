"""What is logged and counted.

Read `happenings` (what a service did with an event, for observers), `connectivity` (whether broker and database can be
used), `outage_log` (the lines it writes), `log_text` (what a text must be to stand in one), `storable` (and to be
stored, also when it is that of an error which cannot say anything).
"""
