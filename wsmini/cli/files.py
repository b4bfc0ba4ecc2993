"""Private files: the history and records, which others must neither read nor forge."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


def open_private(path: str, flag: int) -> BinaryIO:
    """Open a file to write to, unbuffered, and keep it for its user alone.

    Args:
        path: of the file, which is made if there is none. Devices and pipes are taken as they are.
        flag: ``os.O_APPEND`` or ``os.O_TRUNC``.

    Raises:
        OSError: if it can't be opened, is a link, or others own it or may write to it.
    """
    # A link in a folder of all (/tmp) could lead anywhere; those in /dev are the system's.
    nofollow = 0 if path.startswith("/dev/") else getattr(os, "O_NOFOLLOW", 0)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | nofollow
    file = open(path, "wb", buffering=0, opener=lambda path, _: os.open(path, flags, 0o600))
    try:
        status = os.fstat(file.fileno())
        regular = stat.S_ISREG(status.st_mode)
        if regular and os.name == "posix":
            if status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
                raise PermissionError(f"others own {path!r} or may write to it: it isn't used")
            os.fchmod(file.fileno(), 0o600)
        if regular and flag & os.O_TRUNC:
            file.truncate(0)
        return file
    except BaseException:
        file.close()
        raise
