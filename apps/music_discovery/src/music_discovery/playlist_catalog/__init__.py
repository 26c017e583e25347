"""The playlists that everybody may find."""
