"""How the world reaches the users' catalogs: over HTTP and by events."""
