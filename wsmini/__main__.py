"""``python -m wsmini``: the command line."""

from __future__ import annotations

import sys

from . import _explained

if __name__ == "__main__":
    try:
        from .cli import main
    except ModuleNotFoundError as exc:
        sys.exit(f"wsmini: {_explained(exc)}")
    from .exiting import exit_with

    exit_with(main())
