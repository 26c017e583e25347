"""All of it as one running service: `Service` is the door."""

from cauce.service.service import Service
from cauce.telemetry.happenings import Happening, Observer

__all__ = ["Happening", "Observer", "Service"]
