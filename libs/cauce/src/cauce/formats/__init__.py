"""How an event is written down.

`cloudevents` is the form of every durable transport, `nestjs` that of a NestJS peer on Pub/Sub; `decoding` leads from
the bytes of either to a typed event.
"""
