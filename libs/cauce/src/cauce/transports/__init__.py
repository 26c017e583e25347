"""Adapters of the ports in `ports/transport.py`: a door file each; `redis` holds what two of them share.

Read `memory` and `memory_streams` first: the same promises without a broker.
"""
