"""The way of an event to other services and to durable listeners."""
