"""Planted bugs: the suite's own exam. PLANTED=name makes a test process carry one; its test must then fail."""

from importlib import import_module

__all__ = ["plant"]


def plant(name: str) -> None:
    """Put the bug in place, in this process only."""
    import_module(f"{__name__}.{name}").plant()
