"""Adapters of the Transport port."""
