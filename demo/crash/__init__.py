"""The broker is killed and comes back empty, while one event waits, one is in retry and one is dead."""
