"""The room that is left on the disk.

Deleting needs room too: SQLite writes what changes beside the database first. A store that fills its disk
could then not even delete what is done with. So a floor is kept free for that; below it nothing is added that
can be refused, dropped or merged.
"""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 4
"""On a small disk the floor is one part in so many of it."""


class Disk:
    """The file system of a folder.

    Units:  `floor` in bytes. A folder that cannot be asked counts as roomy: the write itself will tell.
    """

    def __init__(self, folder: Path, floor: int) -> None:
        self._folder = folder
        self._floor = floor

    @property
    def is_tight(self) -> bool:
        """True when less than the floor is free."""
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return False
        floor = min(self._floor, found.f_blocks * found.f_frsize // SHARE)
        return found.f_bavail * found.f_frsize < floor
