"""From the broker, or the waiting room, to a committed outcome."""
