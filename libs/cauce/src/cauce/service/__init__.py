"""All of it as one running service.

Read in this order: `service` (the door), `wiring` (what it hears), `run` (its loops), `description` (what it leaves
word of).
"""

from cauce.service.service import Service
from cauce.telemetry.happenings import Happening, Observer

__all__ = ["Happening", "Observer", "Service"]
