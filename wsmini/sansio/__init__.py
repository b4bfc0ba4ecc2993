"""The protocol, bytes in and bytes out: no socket, no clock, no thread."""

from __future__ import annotations
