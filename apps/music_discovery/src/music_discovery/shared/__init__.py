"""What both modules may know: the domain events they talk in, and nothing else."""
