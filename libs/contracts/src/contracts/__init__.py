"""CloneSpotify's integration events: one module per publishing service, owned by that service."""
