"""What Cauce needs from outside: values and Protocols, no work.

`transport` is what a broker has to keep; `topics` is what of it is shown to people. `store` is a service's database;
`message_store` is what Cauce keeps in it, in four groups: `outbox`, `lanes`, the waiting room
(in `inbox`) and the registry; the `Inbox` itself is reached through a unit of work. `savepoints` says which published events survive. `figures` and `description` are what a service tells of itself.
"""
