"""From the outbox to the broker: `relay` sends, `tail` verifies what the broker holds, `alarms` watches the backlog."""
