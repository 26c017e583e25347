"""How the world reaches the public playlists: over HTTP and by events."""
