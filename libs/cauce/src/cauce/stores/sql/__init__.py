"""All SQL on Cauce's own tables."""
