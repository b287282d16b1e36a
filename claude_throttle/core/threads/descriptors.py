"""File descriptors: how many this process may have, and whether it ran out of them.

Each request in flight needs a socket. Without a bound taken from the system's limit, a burst of
calls would take the descriptors that the rest of the program needs for its files and its database.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from typing import Optional

#: What the system answers when the process, or the machine, has no file descriptor left.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)


def half_of_file_limit() -> float:
    """Half of the soft limit of open files (``ulimit -n``); inf if there is none, as on Windows.

    The soft limit is usually 1,024 on Linux and 256 on macOS.
    """
    try:
        import resource
    except ImportError:
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else max(1, soft // 2)


def lacked_descriptor(error: BaseException) -> bool:
    """Whether *error* came about because no file descriptor was left.

    Such a request was never sent and may be repeated once others have ended. urllib3 and requests
    wrap the OSError several times, so the chain of causes is searched.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _EXHAUSTED:
            return True
        if type(cause).__name__ == "gaierror":
            return _is_exhausted()  # a name look-up does not tell why it failed
    return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: Optional[BaseException] = error
    for _ in range(10):  # a chain may be a ring
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _is_exhausted() -> bool:
    """Try it: open a descriptor and close it again."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _EXHAUSTED
    return False
