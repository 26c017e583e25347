"""Services that tests start as programs, each a file that could lie in a user's folder."""

from pathlib import Path

__all__ = ["FOLDER"]

FOLDER = Path(__file__).resolve().parent
