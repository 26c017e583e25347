"""Publishing an event, and handling it inside the service.

`bus` is one process without a database, and the two ports that application code may ask for. With a database: `rules`
(what may be published, who hears it), `transaction` (publish and savepoint), `pending` (what waits for the commit),
`units_of_work` (begin, commit, roll back, hand on), `dispatcher` (listeners called outside the publisher's transaction).
"""
