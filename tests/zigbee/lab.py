"""The Zigbee network behind a pty, for tests, and as a program: `python -m tests.zigbee.lab`.

The program prints the path of the stick; then it takes a command a line:

    join NAME         a device joins (lamp, thermometer, plug, contact, motion; lamp2 is a second lamp)
    report NAME V     its first measured value changes and is reported (thermometer: 0.01 °C)
    leave NAME        it leaves the network
    lose NAME         it is out of reach, find NAME: back
    sleep NAME        a battery device sleeps, wake NAME: it is awake and checks in
    unplug, plug      the stick goes, and comes back at another path
    show NAME         what the device holds
    swap              another, empty stick is plugged in
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import sys
import tempfile
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.zigbee import kinds, slip
from tests.zigbee.device import Device
from tests.zigbee.stick import Memory, Stick

IEEE = 0x00212EFFFF012345
FIRST_NWK = 0x1001
EXPIRE_SECONDS = 0.3
"""How long the stick holds a frame for a sleeping device; the real one 7.68 s."""
MAIN_VALUE = {
    "lamp": (6, 0),
    "thermometer": (0x0402, 0),
    "plug": (0x0B04, 0x050B),
    "motion": (0x0406, 0),
}


class Lab:
    """One network; lives in the running loop. `path` is stable, what it points to changes with each plug."""

    def __init__(self, folder: Path, *, memory: Memory | None = None) -> None:
        self.path = folder / "usb-lab-stick"
        self.memory = memory or Memory(IEEE)
        self.devices: dict[str, Device] = {}
        self.stick: Stick | None = None
        self._fds: tuple[int, int] | None = None
        self._decoder = slip.Decoder()
        self._out = bytearray()
        self._is_writing = False
        self._nwk = FIRST_NWK
        self._joined: dict[int, Device] = {}

    # --- the stick's power --------------------------------------------------------------------------

    def plug(self) -> Path:
        """Put the stick in, at a new pty; `path` is a link to it as in /dev/serial/by-id."""
        loop = asyncio.get_running_loop()
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._fds, self._out, self._decoder = (master, slave), bytearray(), slip.Decoder()
        self.stick = Stick(self.memory, lambda work: self._soon(loop, work))
        self.stick.write = lambda frame: self._send(slip.encode(frame))
        for nwk, device in self._joined.items():
            self._attach(device, nwk)
        loop.add_reader(master, self._readable)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(slave))
        return self.path

    def _attach(self, device: Device, nwk: int) -> None:
        stick = self.stick
        assert stick is not None
        device.send = lambda frame: stick._heard(device, frame)
        stick.devices[nwk] = device

    def _soon(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
        loop.call_soon(work)

    def unplug(self) -> None:
        """Take the stick out."""
        if self._fds is None:
            return
        loop, (master, slave) = asyncio.get_running_loop(), self._fds
        self._fds = None
        loop.remove_reader(master)
        loop.remove_writer(master)
        self._is_writing = False
        self.path.unlink(missing_ok=True)
        os.close(slave)
        os.close(master)
        self.stick = None
        for device in self._joined.values():
            device.send = lambda _frame: None

    def swap(self, memory: Memory) -> None:
        """Put in another stick; the devices stay in the old one's network."""
        self.unplug()
        self.memory = memory
        self.plug()

    def say(self, data: bytes) -> None:
        """Send bytes that no firmware would."""
        self._send(data)

    def _readable(self) -> None:
        if self._fds is None:
            return
        with contextlib.suppress(BlockingIOError, OSError):
            for frame in self._decoder.feed(os.read(self._fds[0], 65_536)):
                if self.stick is not None:
                    self.stick.receive(frame)

    def _send(self, data: bytes) -> None:
        self._out += data
        if not self._is_writing:
            self._writable()

    def _writable(self) -> None:
        if self._fds is None:
            return
        loop, master = asyncio.get_running_loop(), self._fds[0]
        try:
            sent = os.write(master, self._out)
        except BlockingIOError:
            sent = 0
        del self._out[:sent]
        if self._out and not self._is_writing:
            self._is_writing = True
            loop.add_writer(master, self._writable)
        elif not self._out and self._is_writing:
            self._is_writing = False
            loop.remove_writer(master)

    # --- the devices --------------------------------------------------------------------------------

    def join(self, name: str) -> Device:
        """Let a device join; again: it comes back at another short address."""
        kind = name.rstrip("0123456789")
        number = int(name[len(kind) :] or 0)
        device = self.devices.setdefault(name, kinds.make(kind, number))
        assert self.stick is not None
        self._joined = {nwk: each for nwk, each in self._joined.items() if each is not device}
        self._joined[self._nwk] = device
        self.stick.join(device, self._nwk)
        self._nwk += 1
        return device

    def leave(self, name: str) -> None:
        """A device goes for good; this firmware does not tell the host."""
        device = self.devices[name]
        self._joined.pop(device.nwk, None)
        if self.stick is not None:
            self.stick.devices.pop(device.nwk, None)

    def sleep(self, name: str) -> None:
        self.devices[name].is_awake = False

    def wake(self, name: str) -> None:
        """Wake a device up; it checks in."""
        self.devices[name].is_awake = True
        self.devices[name].check_in()

    def expire(self) -> None:
        if self.stick is not None:
            self.stick.expire()


@contextlib.contextmanager
def laboratory(*, memory: Memory | None = None, plugged: bool = True) -> Iterator[Lab]:
    """A network for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="twinspan-zigbee-") as folder:
        lab = Lab(Path(folder), memory=memory)
        if plugged:
            lab.plug()
        try:
            yield lab
        finally:
            lab.unplug()


# --- the program ------------------------------------------------------------------------------------


def obey(lab: Lab, line: str) -> str:
    """Obey one line; return what is to be printed."""
    words = line.split()
    if not words:
        return ""
    command, name = words[0], words[1] if len(words) > 1 else ""
    if command == "report":
        cluster, attribute = MAIN_VALUE[name.rstrip("0123456789")]
        lab.devices[name].set(cluster, attribute, int(words[2]))
    elif command == "show":
        clusters = lab.devices[name].clusters.items()
        return repr(
            {hex(c): {hex(a): v.value for a, v in p.attributes.items()} for c, p in clusters}
        )
    elif command in ("lose", "find"):
        lab.devices[name].is_lost = command == "lose"
    elif command == "swap":
        lab.swap(Memory(IEEE + 1))
    elif command in ("join", "leave", "sleep", "wake"):
        getattr(lab, command)(name)
    elif command in ("plug", "unplug"):
        getattr(lab, command)()
    else:
        return f"unknown: {line}"
    return f"done: {line}"


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    with laboratory() as lab:
        print(lab.path, flush=True)  # noqa: T201  the program's answer
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        expiry = asyncio.create_task(_expire(lab))
        while line := await reader.readline():
            try:
                said = obey(lab, line.decode().strip())
            except (KeyError, IndexError, ValueError, AssertionError) as error:
                said = f"failed: {error!r}"
            print(said, flush=True)  # noqa: T201
        expiry.cancel()


async def _expire(lab: Lab) -> None:
    while True:
        await asyncio.sleep(EXPIRE_SECONDS)
        lab.expire()


if __name__ == "__main__":
    asyncio.run(_serve())
