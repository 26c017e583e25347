"""From the broker, or the waiting room, to a committed outcome.

In the order of an event: `consumer` and `waiting_room` find deliveries of what `listening` names, `workers` settle them
key by key, `attempts` or `outside_effects` apply one to one listener in `transactions`. `ordering` decides by
`decision_table` whether it is the event's turn, `failures` records what failed, `gaps` notices what did not come.
"""
