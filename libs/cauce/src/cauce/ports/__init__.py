"""What Cauce needs from outside: values and Protocols, no work."""
