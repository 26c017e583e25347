"""Who hears an event, and how they are called."""
