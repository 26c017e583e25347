"""Which process owns which lane."""
