"""What Redis and Valkey are asked: beneath the two transports, and for people.

Read `connection` and `pipeline` (a connection; many commands in one trip), `replies` and `stream_keys` (what is answered,
what keys are called), then `acks` and `group_reading` (how a service consumes), `health`; and for people `queries`,
`watching` and `topics`, which implements `ports/topics.py`.
"""
