"""How an event is written down."""
