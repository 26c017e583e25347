"""Each user's own music: their playlists and what they like."""
