"""Whether a serial port can be used: there, ours to open, free, named in a way that lasts, the right stick.

Only looks: /dev, /sys and /proc; the port is not opened, which would reset some sticks. What stick it is is
guessed from USB numbers and names, as far as makers say them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.verdicts import FAIL, OK, WARN, Verdict

BY_ID: Final = "dev/serial/by-id"
_UP: Final = 6
"""Folders from a tty up to its USB device in /sys, at most."""
STICKS: Final = (
    ("1cf1:0030", "", "deconz"),
    ("0403:6015", "conbee", "deconz"),
    ("1a86:7523", "conbee", "deconz"),
    ("0451:16a8", "", "znp"),
    ("10c4:ea60", "2652", "znp"),
    ("10c4:ea60", "zigstar", "znp"),
    ("10c4:ea60", "slzb-07", "ezsp"),
    ("10c4:ea60", "skyconnect", "ezsp"),
    ("10c4:ea60", "sonoff", "znp"),
    ("1a86:55d4", "sonoff", "ezsp"),
    ("10c4:8a2a", "", "ezsp"),
    ("303a:4001", "zbt", "ezsp"),
)
"""USB vendor and product, part of the names it gives itself, kind of Zigbee radio; the first that fits."""
HOLDERS: Final = {
    "ModemManager": "systemctl disable --now ModemManager",
    "brltty": "apt-get remove brltty",
}


@dataclass(frozen=True, slots=True)
class Usb:
    """What a USB device says it is. Shape: `numbers` `vendor:product`, in lower case."""

    numbers: str
    names: str

    @property
    def radio(self) -> str:
        """The kind of Zigbee stick that it looks like, "" for unknown."""
        names = self.names.lower()
        fits = (r for n, part, r in STICKS if n == self.numbers and part in names)
        return next(fits, "")


def serial_verdict(
    name: str, path: str, root: Path = Path("/"), ours: Collection[int] = ()
) -> Verdict:
    """Judge a port by its path below /dev. Shape: `ours` are the process ids of mappers here."""
    at = root / path.lstrip("/")
    try:
        is_port = stat.S_ISCHR(at.stat().st_mode)
    except PermissionError:
        return Verdict(name, FAIL, f"{path}: no right to look at it", "run it as the edge's user")
    except OSError:
        return Verdict(name, FAIL, f"{path} is not there", _others(root))
    if not is_port:
        return Verdict(name, FAIL, f"{path} is no serial port", _others(root))
    if not os.access(at, os.R_OK | os.W_OK):
        mend = "usermod -aG dialout USER (the user of the edge), and start the edge again"
        return Verdict(name, FAIL, f"{path}: this user may not read and write it", mend)
    real = Path(os.path.realpath(at))
    for pid, program in holders(real, root):
        if pid not in ours:
            mend = HOLDERS.get(
                program, f"end it, e.g. kill {pid}, or systemctl disable its service"
            )
            return Verdict(name, FAIL, f"{path} is in use by {program} (process {pid})", mend)
    return _lasting(name, path, real, root)


def _lasting(name: str, path: str, real: Path, root: Path) -> Verdict:
    """Judge the path itself: numbers of ttys change with the order of plugging."""
    found = usb_of(real, root)
    said = f"{path} ({found.names or found.numbers})" if found else path
    better = next((link for link, target in by_id(root) if target == real), "")
    if not better or path.startswith(f"/{BY_ID}"):
        return Verdict(name, OK, said)
    return Verdict(name, WARN, f"{said}: this name may change", f"say {better} instead")


def _others(root: Path) -> str:
    links = [link for link, _ in by_id(root)][:5]
    return f"there are {', '.join(links)}" if links else "plug it in; look at: dmesg | grep tty"


def by_id(root: Path = Path("/")) -> Iterator[tuple[str, Path]]:
    """Give the names of ports that last, and what they point to."""
    try:
        links = sorted((root / BY_ID).iterdir())
    except OSError:
        return
    for link in links:
        yield f"/{BY_ID}/{link.name}", Path(os.path.realpath(link))


def usb_of(real: Path, root: Path = Path("/")) -> Usb | None:
    """Return what USB device a tty belongs to, None for none."""
    try:
        folder = (root / "sys/class/tty" / real.name / "device").resolve(strict=True)
    except OSError:
        return None
    for each in (folder, *list(folder.parents)[:_UP]):
        if (each / "idVendor").is_file():
            numbers = f"{_text(each / 'idVendor')}:{_text(each / 'idProduct')}".lower()
            names = f"{_text(each / 'manufacturer')} {_text(each / 'product')}".strip()
            return Usb(numbers, names)
    return None


def holders(real: Path, root: Path = Path("/")) -> Iterator[tuple[int, str]]:
    """Give who has a file open: process id and program, as far as this user may see it."""
    try:
        folders = [each for each in (root / "proc").iterdir() if each.name.isdigit()]
    except OSError:
        return
    for folder in folders:
        if any(target == str(real) for target in _open_files(folder)):
            yield int(folder.name), _text(folder / "comm") or "a process"


def _open_files(folder: Path) -> Iterator[str]:
    try:
        names = os.listdir(folder / "fd")
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(folder / "fd" / name)
        except OSError:
            continue  # closed meanwhile


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:200]
    except OSError:
        return ""
