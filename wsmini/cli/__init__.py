"""The program behind ``python -m wsmini``."""

from __future__ import annotations

from .program import main

__all__ = ["main"]
