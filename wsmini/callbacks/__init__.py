"""The callback API: ``Client`` and ``Loop``."""

from __future__ import annotations
