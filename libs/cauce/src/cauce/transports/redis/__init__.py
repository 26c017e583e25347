"""All Redis commands."""
