"""Opens logs of containers, and never what somebody has put in their place.

A container that has the folder of logs as a volume can put a link or a pipe where a log was: followed, it
would show any file of this machine to who may read logs, or hold its reader up for ever. The folder of all
logs may be a link of the administrator's; the folders of a Pod and a container, and the file, are none.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from edge.pods.trees import opened

_TOP: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_log_file(path: str | Path) -> int:
    """Open `<logs>/<pod>/<container>/<file>` for reading. Errors: OSError, also for what is no plain file."""
    file = Path(path)
    of_pod = file.parent.parent
    top = os.open(of_pod.parent, _TOP)
    try:
        with opened(of_pod.name, top) as pod, opened(file.parent.name, pod) as folder:
            found = os.open(file.name, _PLAIN, dir_fd=folder)
    finally:
        os.close(top)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return found


def seen(path: str | Path) -> os.stat_result | None:
    """Return what stands at a log's name, None for nothing and for what is no plain file."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None
