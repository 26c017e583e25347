"""Who hears an event, and how they are called.

Read `on` (the decorator), `listener` (what it makes), `discovery` (listeners found in modules, functions and objects),
`catalog` (who hears what, in order), `dependencies` (what a listener needs beyond the event), `calling` (one call).
`context`, `retry` and `effects` are what a listener may ask for.
"""
