"""The folders of Pods' volumes on this machine: made, filled and removed. All of it blocks.

Shape: `<root>/<uid>/volumes/<name>` is a volume, on disk or a tmpfs; `<root>/<uid>/volume-subpaths/`
holds what is bound for sub paths. Only this process enters `volumes`: a container gets its volume by a
mount. A volume's folder appears with its owner and mode; one that is there is right, and stays as it is.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from edge.pods.atomicwriter import DATA, Files, write_files
from edge.pods.mounts import TMPFS, Mounts
from edge.pods.podnames import is_uid
from edge.pods.subpaths import SubPaths, make_folders
from edge.pods.trees import give_to_group, remove_tree
from gateway.errors import BadRequest, NotBuilt

log = logging.getLogger(__name__)

VOLUMES, SUBPATHS = "volumes", "volume-subpaths"
OPEN_MODE, READ_MODE = 0o777, 0o755
FILES_BYTES: Final = 64 << 20
"""Bound of a tmpfs for files: two generations of them, and room for pages."""
_POD_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def check_uid(uid: str) -> str:
    """Return a Pod's uid that may be a folder's name. Errors: BadRequest."""
    if not is_uid(uid):
        raise BadRequest(f"metadata.uid: not a uid: {uid[:100]!r}")
    return uid


def check_label(name: str) -> str:
    """Return a volume's or container's name. Errors: BadRequest."""
    if _LABEL.fullmatch(name) is None:
        raise BadRequest(f"expected the name of a volume or container, got {name[:100]!r}")
    return name


@dataclass(frozen=True, slots=True)
class Group:
    """Of a Pod's `fsGroup`."""

    gid: int
    only_on_mismatch: bool = False


class VolumeFolders:
    """Folders of the Pods' volumes below `root`.

    Errors: (of all) OSError; BadRequest for names that are none.
    """

    def __init__(self, root: Path, mounts: Mounts) -> None:
        self.root = Path(os.path.realpath(root))
        self._mounts = mounts

    def path(self, uid: str, name: str) -> Path:
        return self._pod(uid) / VOLUMES / check_label(name)

    def subpaths(self, uid: str) -> SubPaths:
        return SubPaths(self._pod(uid) / SUBPATHS, self._mounts)

    def _pod(self, uid: str) -> Path:
        return self.root / check_uid(uid)

    @cached_property
    def has_memory(self) -> bool:
        """True where this process may mount; tried once."""
        scratch = self.root / ".probe"
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        can = self._mounts.can_mount(scratch)
        with suppress(OSError):
            scratch.rmdir()
        if not can:
            log.warning(
                "Secrets and tokens of Pods lie on disk: this process may not mount a tmpfs"
            )
        return can

    # --- making -------------------------------------------------------------------------------

    def on_disk(self, uid: str, name: str, mode: int, group: Group | None) -> Path:
        """Make a folder, at once with its owner and mode."""
        path = self.path(uid, name)
        if path.is_symlink() or not path.is_dir():
            draft = path.with_name(f".new-{name}")
            remove_tree(draft)
            remove_tree(path)
            self._volumes_of(uid)
            draft.mkdir(mode=0o700)
            if group is not None:
                os.chown(draft, -1, group.gid)
            draft.chmod(_folder_mode(mode, group))
            draft.rename(path)
        return path

    def in_memory(self, uid: str, name: str, size: int, mode: int, group: Group | None) -> Path:
        """Mount a tmpfs, the one that is mounted there already stays. Units: bytes."""
        path = self.path(uid, name)
        if self._mounts.kind(path) != TMPFS:
            remove_tree(path)
            self._volumes_of(uid)
            path.mkdir(mode=0o700)
            gid = None if group is None else group.gid
            self._mounts.tmpfs(path, size=size, mode=_folder_mode(mode, group), gid=gid)
        return path

    def _volumes_of(self, uid: str) -> None:
        folder = self._pod(uid) / VOLUMES
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)

    def memory_dir(self, uid: str, name: str, size: int, group: Group | None) -> Path:
        """Make an emptyDir in memory. Errors: NotBuilt where this process may not mount."""
        if not self.has_memory:
            raise NotBuilt('emptyDir with medium "Memory": this process may not mount a tmpfs')
        return self.in_memory(uid, name, size, OPEN_MODE | stat.S_ISVTX, group)  # as tmpfs is

    def write(
        self,
        uid: str,
        name: str,
        files: Files,
        group: Group | None,
        *,
        is_secret: bool,
        nested: Collection[str] = (),
    ) -> bool:
        """Make a volume hold these files; what is secret lies in memory where that can be.

        Shape:  True where something had to change; `nested` are folders that others are mounted on.
        """
        if is_secret and self.has_memory:
            path = self.in_memory(uid, name, FILES_BYTES, READ_MODE, group)
        else:
            path = self.on_disk(uid, name, READ_MODE, group)
        kept = _narrowed(files) if is_secret and not self.has_memory else files
        changed = write_files(path, kept, None if group is None else group.gid)
        for inner in nested:
            if not (path / inner).exists():
                make_folders(path, inner)
        return changed

    def shown(self, uid: str, name: str) -> str:
        """Return the path of a volume that shows files of an earlier time, empty for none."""
        if _LABEL.fullmatch(name) is None:
            return ""
        path = self.path(uid, name)
        return str(path) if (path / DATA).is_dir() else ""

    def give(self, uid: str, name: str, path: Path, group: Group, *, read_only: bool) -> None:
        """Let the Pod's group into a folder that is not made here, once in the life of the Pod."""
        mark = self._pod(uid) / VOLUMES / f".given-{check_label(name)}"
        if not mark.exists():
            give_to_group(
                path, group.gid, read_only=read_only, only_on_mismatch=group.only_on_mismatch
            )
            self._volumes_of(uid)
            mark.touch(mode=0o600)

    # --- removing -----------------------------------------------------------------------------

    def remove(self, uid: str) -> None:
        """Unmount and remove all volumes of a Pod, and its folder when nothing else is in it.

        Errors: OSError where something stays mounted: nothing of that is removed.
        """
        pod = self._pod(uid)
        for name in (SUBPATHS, VOLUMES):
            self._remove(pod / name)
        with suppress(OSError):
            pod.rmdir()

    def _remove(self, path: Path) -> None:
        left = self._mounts.clear(path)
        if left:
            raise OSError(f"still mounted: {left[0]}")
        remove_tree(path)

    def orphans(self, known: Collection[str]) -> list[str]:
        """Return uids of Pod folders that belong to no known Pod. A kubelet's folders are none."""
        try:
            found = [each for each in os.scandir(self.root) if each.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        uids = [each.name for each in found if _POD_UID.fullmatch(each.name)]
        return sorted(uid for uid in uids if uid not in known and not self._is_kubelets(uid))

    def _is_kubelets(self, uid: str) -> bool:
        pod = self.root / uid
        if (pod / "plugins").exists():
            return True
        with suppress(OSError):
            return any("~" in name for name in os.listdir(pod / VOLUMES))
        return False

    def remove_orphan(self, uid: str) -> None:
        """Remove the whole folder of a Pod that nobody knows. Errors: OSError."""
        self.remove(uid)
        self._remove(self._pod(uid))


def _folder_mode(mode: int, group: Group | None) -> int:
    if group is None:
        return mode
    return mode | stat.S_ISGID | (0o770 if mode & OPEN_MODE == OPEN_MODE else 0o550)


def _narrowed(files: Files) -> Files:
    return {path: replace(file, mode=file.mode & 0o700) for path, file in files.items()}
