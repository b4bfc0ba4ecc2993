"""``python -m wsmini``: the command line."""

from __future__ import annotations

from .cli import main
from .exiting import exit_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run() -> NoReturn:
    """Run the command line as the program of this process: it ends with its status or signal."""
    exit_with(main())


if __name__ == "__main__":
    run()
