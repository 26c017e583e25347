"""Saying that something happened."""
