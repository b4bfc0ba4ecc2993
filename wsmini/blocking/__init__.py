"""The blocking API: ``connect()``, ``Connection`` and ``reconnect()``."""

from __future__ import annotations
