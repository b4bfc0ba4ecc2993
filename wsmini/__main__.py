"""``python -m wsmini``: the command line."""

from __future__ import annotations

import sys

from . import _explained

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run() -> NoReturn:
    """Run the command line as the program of this process: it ends with its status or signal."""
    try:
        from .cli import main
    except ModuleNotFoundError as exc:
        sys.exit(f"wsmini: {_explained(exc)}")
    from .exiting import exit_with

    exit_with(main())


if __name__ == "__main__":
    run()
