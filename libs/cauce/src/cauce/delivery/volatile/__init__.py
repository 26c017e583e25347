"""At most once: `queue` keeps in memory what follows a commit, `consumer` takes what comes by Pub/Sub."""
