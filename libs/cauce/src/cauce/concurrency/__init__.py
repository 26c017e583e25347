"""asyncio, and nothing of events: `cancellation`, `backoff`, `shared_lock`, `keyed_workers`."""
