"""All of it as one running service: `Service` is the door."""

from cauce.service.service import Happening, Observer, Service

__all__ = ["Happening", "Observer", "Service"]
