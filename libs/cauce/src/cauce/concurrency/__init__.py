"""asyncio, and nothing of events."""
