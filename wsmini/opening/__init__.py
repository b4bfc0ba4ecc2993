"""Between a URL and an open connection: what takes time is a generator that never waits itself."""

from __future__ import annotations
