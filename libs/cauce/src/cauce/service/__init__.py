"""All of it as one running service.

Read `service` (the door), `wiring` (what it hears, and all that is wrong), `run` (one run, from start to drained),
`outlet` (where published events go after the commit), `description` (what it records about itself in its database).
"""

from cauce.service.service import Service
from cauce.telemetry.happenings import Happening, Observer

__all__ = ["Happening", "Observer", "Service"]
