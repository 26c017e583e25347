"""The tests have a short form, which `make test` runs, and a long one, `make prove`: the same, more often and in more places."""

import os

__all__ = ["PROVE"]

PROVE = bool(os.environ.get("PROVE"))
"""The long form: as many kills as the hazards' rows name, and every story on every database and beside every NestJS."""
