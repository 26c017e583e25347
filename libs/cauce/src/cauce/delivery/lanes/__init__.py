"""Which process owns which lane (partition): `lane_keeper` decides, `ownership` asks the database and does it."""
