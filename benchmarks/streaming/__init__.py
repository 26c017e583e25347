"""Ways to move events over Redis Streams, for streams.py.

Everybody moves messages of about 315 bytes over the same server and calls one async listener for each. What differs is
what the way itself does: Cauce appends in transactions to sixteen lanes, decodes the envelope and the typed event and
acknowledges each message; raw redis-py moves bytes and acknowledges by the batch; FastStream wraps and unwraps its own
envelope and gives its listener a dict, which costs it less than a model would.

Shared: message, way. The ways: with_cauce, with_redis_py, with_faststream; ways lists them. What is measured: bench,
and consumer, which is the consumer's process.
"""
