"""At most once: in memory after the commit, and Pub/Sub."""
