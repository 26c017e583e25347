"""The revisions of this service's tables, run at its start."""
