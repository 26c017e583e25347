"""What an event is.

Read `event` (the two kinds, and what a class says about itself), `immutable` (which fields a class may have), `envelope`
(what surrounds an event), `names` (dotted names and patterns), `publishable` (which integration events a service may
publish, and the envelopes it sends them in).
"""
