"""An open connection on any event loop; what ``Client`` and asyncio's API share."""

from __future__ import annotations
