"""A virtual Zigbee device: answers ZDO and ZCL, reports what it was told to report, sleeps if made so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.zigbee.values import Attribute, change_size, decode

PROFILE = 0x0104
ON_OFF, LEVEL, COLOUR, ZONE, POLL, COVER = 0x0006, 0x0008, 0x0300, 0x0500, 0x0020, 0x0102
SUCCESS, UNSUPPORTED_COMMAND, UNSUPPORTED_ATTRIBUTE, READ_ONLY = 0x00, 0x81, 0x86, 0x88


@dataclass(frozen=True, slots=True)
class Frame:
    """One APS payload between a device and the coordinator."""

    profile: int
    cluster: int
    source: int
    target: int
    data: bytes


@dataclass(slots=True)
class Cluster:
    """A server cluster of a device, and what it was told to report."""

    attributes: dict[int, Attribute] = field(default_factory=dict)
    reporting: dict[int, tuple[int, int]] = field(default_factory=dict)
    is_bound: bool = False


class Device:
    """One device; `send` gives a frame to the coordinator, as if by radio."""

    def __init__(
        self,
        ieee: int,
        endpoint: int,
        kind: int,
        clusters: dict[int, dict[int, Attribute]],
        *,
        is_sleepy: bool = False,
    ) -> None:
        self.ieee, self.endpoint, self.kind = ieee, endpoint, kind
        self.is_sleepy = is_sleepy
        self.is_awake = True
        self.is_lost = False
        self.refuses: dict[int, int] = {}
        """Status with which a cluster refuses commands."""
        self.nwk = 0xFFFE
        self.clusters = {number: Cluster(attributes) for number, attributes in clusters.items()}
        self.heard: list[tuple[int, int, bytes]] = []
        """Cluster commands that it obeyed: cluster, command, arguments."""
        self.send: Callable[[Frame], None] = lambda _frame: None
        self._sequence = 0
        self._coordinator = 0

    # --- what a test asks of it ---------------------------------------------------------------------

    def announce(self) -> None:
        """Say that it is in the network, as after joining."""
        body = self.nwk.to_bytes(2, "little") + self.ieee.to_bytes(8, "little")
        self._sequence = self._sequence % 255 + 1
        data = bytes((self._sequence,)) + body + bytes((self._capability,))
        self.send(Frame(0, 0x0013, 0, 0, data))

    def set(self, cluster: int, attribute: int, value: int | float | str) -> None:
        """Change an attribute; it is reported if that was configured and bound."""
        part = self.clusters[cluster]
        part.attributes[attribute].value = value
        if part.is_bound and attribute in part.reporting:
            self.report(cluster, attribute)

    def report(self, cluster: int, attribute: int) -> None:
        """Report an attribute, whether configured or not."""
        record = (
            attribute.to_bytes(2, "little") + self.clusters[cluster].attributes[attribute].encoded()
        )
        self.send(self._zcl(cluster, 0x18, 0x0A, record))

    def zone_status(self, status: int) -> None:
        """Notify a change of an IAS zone."""
        self.clusters[ZONE].attributes[2].value = status
        body = status.to_bytes(2, "little") + bytes((0, 1)) + bytes(2)
        self.send(self._zcl(ZONE, 0x19, 0x00, body))

    def check_in(self) -> None:
        """Ask the coordinator whether there is something to do."""
        self.send(self._zcl(POLL, 0x19, 0x00, b""))

    def value(self, cluster: int, attribute: int) -> int | float | str:
        return self.clusters[cluster].attributes[attribute].value

    # --- what it hears ------------------------------------------------------------------------------

    def receive(self, frame: Frame) -> None:
        """Take one frame from the coordinator."""
        if frame.target == 0:
            self._zdo(frame)
        elif frame.target == self.endpoint:
            self._hear_zcl(frame)

    @property
    def _capability(self) -> int:
        return 0x80 if self.is_sleepy else 0x8E

    def node_descriptor(self) -> bytes:
        logical = 2 if self.is_sleepy else 1
        return (
            bytes((logical, 0x40, self._capability))
            + (0x1037).to_bytes(2, "little")
            + bytes((82, 82, 0, 0, 0, 82, 0, 0))
        )

    def _zdo(self, frame: Frame) -> None:
        sequence, body = frame.data[:1], frame.data[1:]
        nwk = self.nwk.to_bytes(2, "little")
        answers: dict[int, Callable[[], bytes]] = {
            0x0000: lambda: b"\0" + self.ieee.to_bytes(8, "little") + nwk,
            0x0001: lambda: b"\0" + self.ieee.to_bytes(8, "little") + nwk,
            0x0002: lambda: b"\0" + nwk + self.node_descriptor(),
            0x0004: lambda: b"\0" + nwk + self._simple_descriptor(),
            0x0005: lambda: b"\0" + nwk + bytes((1, self.endpoint)),
            0x0021: lambda: self._bind(body, is_bound=True),
            0x0022: lambda: self._bind(body, is_bound=False),
            0x0031: lambda: b"\0\0\0\0",
            0x0034: lambda: b"\0",
            0x0036: lambda: b"\0",
        }
        answer = answers.get(frame.cluster, lambda: b"\x84")()
        self.send(Frame(0, frame.cluster | 0x8000, 0, 0, sequence + answer))
        if frame.cluster == 0x0034:
            self.is_lost = True

    def _simple_descriptor(self) -> bytes:
        inputs = b"".join(number.to_bytes(2, "little") for number in self.clusters)
        body = bytes((self.endpoint,)) + PROFILE.to_bytes(2, "little")
        body += self.kind.to_bytes(2, "little") + b"\x01"
        body += bytes((len(self.clusters),)) + inputs + b"\0"
        return bytes((len(body),)) + body

    def _bind(self, body: bytes, *, is_bound: bool) -> bytes:
        cluster = int.from_bytes(body[9:11], "little")
        if cluster not in self.clusters:
            return b"\x82"
        self.clusters[cluster].is_bound = is_bound
        return b"\0"

    def _zcl(
        self, cluster: int, control: int, command: int, body: bytes, sequence: int = -1
    ) -> Frame:
        if sequence < 0:
            self._sequence = sequence = self._sequence % 255 + 1
        data = bytes((control, sequence, command)) + body
        return Frame(PROFILE, cluster, self.endpoint, 1, data)

    def _hear_zcl(self, frame: Frame) -> None:
        control, sequence, command = frame.data[:3]
        part, body = self.clusters.get(frame.cluster), frame.data[3:]
        if part is None:
            return
        if control & 0x03 == 1:
            if frame.cluster == ZONE or frame.cluster == POLL:
                self.heard.append((frame.cluster, command, body))
                return
            status = self.refuses.get(frame.cluster, SUCCESS)
            if status == SUCCESS:
                status = self._obey(frame.cluster, command, body)
            self._default(frame.cluster, sequence, command, status)
            return
        general = {
            0x00: (0x01, self._read),
            0x02: (0x04, self._write),
            0x06: (0x07, self._configure),
        }
        if command in general:
            answer, work = general[command]
            self.send(self._zcl(frame.cluster, 0x18, answer, work(part, body), sequence))
            if command == 0x02 and frame.cluster == ZONE:
                self._enroll()

    def _default(self, cluster: int, sequence: int, command: int, status: int) -> None:
        self.send(self._zcl(cluster, 0x18, 0x0B, bytes((command, status)), sequence))

    def _enroll(self) -> None:
        kind = int(self.clusters[ZONE].attributes[1].value).to_bytes(2, "little")
        self.send(self._zcl(ZONE, 0x19, 0x01, kind + b"\x37\x10"))

    def _read(self, part: Cluster, body: bytes) -> bytes:
        answer = b""
        for at in range(0, len(body) - 1, 2):
            name = body[at : at + 2]
            attribute = part.attributes.get(int.from_bytes(name, "little"))
            if attribute is None:
                answer += name + bytes((UNSUPPORTED_ATTRIBUTE,))
            else:
                answer += name + b"\0" + attribute.encoded()
        return answer

    def _write(self, part: Cluster, body: bytes) -> bytes:
        failures = b""
        while body:
            name, kind = body[:2], body[2]
            value, body = decode(kind, body[3:])
            attribute = part.attributes.get(int.from_bytes(name, "little"))
            if attribute is None:
                failures += bytes((UNSUPPORTED_ATTRIBUTE,)) + name
            elif not attribute.is_writable:
                failures += bytes((READ_ONLY,)) + name
            else:
                attribute.value = value
        return failures or b"\0"

    def _configure(self, part: Cluster, body: bytes) -> bytes:
        failures = b""
        while body:
            name, kind = body[1:3], body[3]
            low, high = (int.from_bytes(body[at : at + 2], "little") for at in (4, 6))
            body = body[8 + change_size(kind) :]
            number = int.from_bytes(name, "little")
            if number in part.attributes:
                part.reporting[number] = (low, high)
            else:
                failures += bytes((UNSUPPORTED_ATTRIBUTE, 0)) + name
        return failures or b"\0"

    def _obey(self, cluster: int, command: int, body: bytes) -> int:
        changes = COMMANDS.get((cluster, command))
        if changes is None:
            return UNSUPPORTED_COMMAND
        self.heard.append((cluster, command, body))
        for number, attribute, value in changes(self, body):
            self.set(number, attribute, value)
        return SUCCESS


def _u16(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 2], "little")


_Changes = list[tuple[int, int, int]]
COMMANDS: dict[tuple[int, int], Callable[[Device, bytes], _Changes]] = {
    (ON_OFF, 0): lambda _device, _body: [(ON_OFF, 0, 0)],
    (ON_OFF, 1): lambda _device, _body: [(ON_OFF, 0, 1)],
    (ON_OFF, 2): lambda device, _body: [(ON_OFF, 0, 1 - int(device.value(ON_OFF, 0)))],
    (LEVEL, 0): lambda _device, body: [(LEVEL, 0, body[0])],
    (LEVEL, 4): lambda _device, body: [(LEVEL, 0, body[0]), (ON_OFF, 0, int(body[0] > 0))],
    (COLOUR, 6): lambda _device, body: [(COLOUR, 0, body[0]), (COLOUR, 1, body[1]), (COLOUR, 8, 0)],
    (COLOUR, 7): lambda _device, body: [
        (COLOUR, 3, _u16(body, 0)), (COLOUR, 4, _u16(body, 2)), (COLOUR, 8, 1),
    ],
    (COVER, 5): lambda _device, body: [(COVER, 8, body[0])],
    (COLOUR, 10): lambda _device, body: [(COLOUR, 7, _u16(body, 0)), (COLOUR, 8, 2)],
}  # fmt: skip
"""What a cluster command changes: cluster, attribute, value."""
