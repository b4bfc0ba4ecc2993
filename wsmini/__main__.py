"""``python -m wsmini``: the command line."""

from __future__ import annotations

from .cli import main
from .exiting import exit_with

if __name__ == "__main__":
    exit_with(main())
