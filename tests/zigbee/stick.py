"""A coordinator that speaks deCONZ's serial protocol (ConBee II), with a network of virtual devices.

Frames in, frames out; who moves the bytes is `tests.zigbee.lab`.
"""

from __future__ import annotations

import functools
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.zigbee.device import Device, Frame

CONNECTED, OFFLINE = 2, 0
OK, UNSUPPORTED = 0, 4
NO_ACK, EXPIRED = 0xE9, 0xF0
MAC, PAN, NWK, EPAN, COORDINATOR, MASK, APS_EPAN = 0x01, 0x05, 0x07, 0x08, 0x09, 0x0A, 0x0B
TRUST, SECURITY, ENDPOINT, PREDEFINED, KEY, LINK_KEY = 0x0E, 0x10, 0x13, 0x15, 0x18, 0x19
CHANNEL, PERMIT, PROTOCOL, UPDATE_ID, WATCHDOG, COUNTER, ZDP = (
    0x1C, 0x21, 0x22, 0x24, 0x26, 0x27, 0x28,
)  # fmt: skip
FIRMWARE = 0x26780700
SELF_NWK = 0x0000


def _empty(ieee: int) -> dict[int, bytes]:
    return {
        MAC: ieee.to_bytes(8, "little"), PAN: b"\xff\xff", NWK: b"\xff\xff", EPAN: bytes(8),
        COORDINATOR: b"\x01", MASK: bytes(4), APS_EPAN: bytes(8), TRUST: bytes(8), SECURITY: b"\x03",
        PREDEFINED: b"\0", CHANNEL: b"\0", PERMIT: b"\0", PROTOCOL: b"\x0e\x01", UPDATE_ID: b"\0",
        WATCHDOG: bytes(4), COUNTER: bytes(4), ZDP: bytes(2),
    }  # fmt: skip


def _endpoint(number: int) -> bytes:
    return bytes((number,)) + b"\x04\x01\x05\x00\x00\x00\x00"


@dataclass(slots=True)
class Memory:
    """What a stick keeps without power: its parameters, keys and endpoint slots."""

    ieee: int
    parameters: dict[int, bytes] = field(default_factory=dict)
    network_key: bytes = bytes(16)
    link_key: bytes = b"ZigBeeAlliance09"
    slots: list[bytes] = field(default_factory=lambda: [_endpoint(1), _endpoint(242), _endpoint(2)])
    is_connected: bool = False

    def __post_init__(self) -> None:
        if not self.parameters:
            self.parameters = _empty(self.ieee)

    @classmethod
    def formed(cls, ieee: int, *, pan: int = 0x1A62, channel: int = 15) -> Memory:
        """A stick that has a network already."""
        memory = cls(ieee)
        memory.parameters |= {
            PAN: pan.to_bytes(2, "little"), NWK: b"\0\0", EPAN: secrets.token_bytes(8),
            MASK: (1 << channel).to_bytes(4, "little"), CHANNEL: bytes((channel,)),
            TRUST: memory.parameters[MAC],
        }  # fmt: skip
        memory.parameters[APS_EPAN] = memory.parameters[EPAN]
        memory.network_key = secrets.token_bytes(16)
        memory.is_connected = True
        return memory

    @property
    def pan(self) -> int:
        return int.from_bytes(self.parameters[PAN], "little")


class Stick:
    """The firmware: answers commands, moves frames between host and devices."""

    def __init__(self, memory: Memory, later: Callable[[Callable[[], None]], None]) -> None:
        self.memory = memory
        self.devices: dict[int, Device] = {}
        """By short address."""
        self.write: Callable[[bytes], None] = lambda _frame: None
        self.is_mute = False
        self.permit = 0
        self._later = later
        self._confirms: deque[bytes] = deque()
        self._indications: deque[bytes] = deque()
        self._held: dict[int, list[tuple[bytes, Frame]]] = {}

    # --- the network --------------------------------------------------------------------------------

    def join(self, device: Device, nwk: int) -> None:
        """Take a device in (or again, at another short address); it announces itself."""
        self.devices = {at: each for at, each in self.devices.items() if each is not device}
        device.nwk, device.is_lost = nwk, False
        device.send = lambda frame: self._heard(device, frame)
        self.devices[nwk] = device
        device.announce()

    def _heard(self, device: Device, frame: Frame) -> None:
        """A device has sent something: for the host, and now it may be spoken to."""
        self._indicate(device.nwk, frame)
        held = self._held.pop(device.nwk, [])
        for request, queued in held:
            self._confirm(request, OK)
            self._later(functools.partial(device.receive, queued))

    def expire(self) -> None:
        """Give up on what sleeping devices did not fetch."""
        held, self._held = self._held, {}
        for requests in held.values():
            for request, _ in requests:
                self._confirm(request, EXPIRED)

    # --- commands of the host -----------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take one frame from the host."""
        if self.is_mute or len(data) < 5:
            return
        command, sequence, body = data[0], data[1], data[5:]
        answers: dict[int, Callable[[], tuple[int, bytes, bool]]] = {
            0x04: lambda: self._fetch(self._confirms),
            0x07: lambda: (OK, bytes((self.state, 0, 0)), False),
            0x08: lambda: self._change_state(body),
            0x0A: lambda: self._read(body[2:]),
            0x0B: lambda: self._write(body[2:]),
            0x0D: lambda: (OK, FIRMWARE.to_bytes(4, "little"), False),
            0x12: lambda: self._request(body[2:]),
            0x17: lambda: self._fetch(self._indications),
            0x1D: lambda: (OK, body[2:], True),
        }
        if command in answers:
            status, payload, has_length = answers[command]()
            self._answer(command, sequence, status, payload, has_length=has_length)

    def _answer(
        self, command: int, sequence: int, status: int, payload: bytes, *, has_length: bool
    ) -> None:
        if has_length:
            payload = len(payload).to_bytes(2, "little") + payload
        length = (5 + len(payload)).to_bytes(2, "little")
        self.write(bytes((command, sequence, status)) + length + payload)

    @property
    def state(self) -> int:
        bits = CONNECTED if self.memory.is_connected else OFFLINE
        return bits | 0x20 | (0x04 if self._confirms else 0) | (0x08 if self._indications else 0)

    def _changed(self) -> None:
        if not self.is_mute:
            # 0: a number that no request of the host has, or the library takes it for a wrong answer
            self._answer(0x0E, 0, OK, bytes((self.state, 0)), has_length=False)

    def _change_state(self, body: bytes) -> tuple[int, bytes, bool]:
        self.memory.is_connected = body[0] == CONNECTED
        if self.memory.is_connected:
            parameters = self.memory.parameters
            mask = int.from_bytes(parameters[MASK], "little")
            parameters[CHANNEL] = bytes((mask.bit_length() - 1,)) if mask else b"\0"
            parameters[EPAN] = parameters[APS_EPAN]
        return OK, body[:1], False

    def _read(self, body: bytes) -> tuple[int, bytes, bool]:
        name, argument = body[0], body[1:]
        if name == KEY:
            return OK, bytes((name, 0)) + self.memory.network_key, True
        if name == LINK_KEY:
            return OK, bytes((name,)) + argument[:8] + self.memory.link_key, True
        if name == ENDPOINT:
            if argument[0] >= len(self.memory.slots):
                return UNSUPPORTED, bytes((name,)), True
            return OK, bytes((name, argument[0])) + self.memory.slots[argument[0]], True
        value = self.memory.parameters.get(name)
        return (
            (UNSUPPORTED, bytes((name,)), True)
            if value is None
            else (OK, bytes((name,)) + value, True)
        )

    def _write(self, body: bytes) -> tuple[int, bytes, bool]:
        name, value = body[0], body[1:]
        if name == KEY:
            self.memory.network_key = value[1:]
        elif name == LINK_KEY:
            self.memory.link_key = value[8:]
        elif name == ENDPOINT:
            self.memory.slots[value[0]] = value[1:]
        elif name in self.memory.parameters:
            self.memory.parameters[name] = value
            if name == PERMIT:
                self.permit = value[0]
        else:
            return UNSUPPORTED, bytes((name,)), True
        return OK, bytes((name,)), True

    def _fetch(self, queue: deque[bytes]) -> tuple[int, bytes, bool]:
        if not queue:
            return 5, bytes((self.state,)), True
        payload = queue.popleft()
        return OK, bytes((self.state,)) + payload, True

    # --- frames to devices --------------------------------------------------------------------------

    def _request(self, body: bytes) -> tuple[int, bytes, bool]:
        number, mode, rest = body[0], body[2], body[3:]
        size = {1: 2, 2: 3, 3: 9}[mode]
        target, rest = rest[:size], rest[size:]
        profile, cluster = (int.from_bytes(rest[at : at + 2], "little") for at in (0, 2))
        length = int.from_bytes(rest[5:7], "little")
        endpoint = target[-1] if mode != 1 else 0xFF
        frame = Frame(profile, cluster, rest[4], endpoint, rest[7 : 7 + length])
        confirm = bytes((number, mode)) + target + bytes((rest[4],))
        address = int.from_bytes(target[:-1] if mode != 1 else target, "little")
        self._later(lambda: self._route(mode, address, confirm, frame))
        return OK, bytes((self.state, number)), True

    def _route(self, mode: int, address: int, confirm: bytes, frame: Frame) -> None:
        if mode == 3:
            found = [each for each in self.devices.values() if each.ieee == address]
            address = found[0].nwk if found else 0xFFFE
        if address == SELF_NWK:
            self._confirm(confirm, OK)
            self._own_zdo(frame)
        elif mode == 1 or address >= 0xFFF8:
            self._confirm(confirm, OK)
        else:
            self._deliver(address, confirm, frame)

    def _deliver(self, address: int, confirm: bytes, frame: Frame) -> None:
        device = self.devices.get(address)
        if device is None or device.is_lost:
            self._confirm(confirm, NO_ACK)
        elif not device.is_awake:
            self._held.setdefault(address, []).append((confirm, frame))
        else:
            self._confirm(confirm, OK)
            device.receive(frame)

    def _confirm(self, confirm: bytes, status: int) -> None:
        self._confirms.append(confirm + bytes((status,)) + bytes(4))
        self._changed()

    def _indicate(self, nwk: int, frame: Frame) -> None:
        payload = b"\x02\0\0" + bytes((frame.target, 2)) + nwk.to_bytes(2, "little")
        payload += bytes((frame.source,)) + frame.profile.to_bytes(2, "little")
        payload += frame.cluster.to_bytes(2, "little") + len(frame.data).to_bytes(2, "little")
        self._indications.append(payload + frame.data + bytes((0, 0, 200, 0, 0, 0, 0, 0xC4)))
        self._changed()

    def _own_zdo(self, frame: Frame) -> None:
        sequence, nwk = frame.data[:1], b"\0\0"
        ieee = self.memory.parameters[MAC]
        slots = {slot[0]: slot for slot in self.memory.slots}
        descriptor = b"\x00\x40\x8e\x35\x11\x52\x52\x00\x00\x00\x52\x00\x00"
        answers: dict[int, Callable[[], bytes]] = {
            0x0000: lambda: b"\0" + ieee + nwk,
            0x0001: lambda: b"\0" + ieee + nwk,
            0x0002: lambda: b"\0" + nwk + descriptor,
            0x0005: lambda: b"\0" + nwk + bytes((len(slots), *slots)),
            0x0004: lambda: _simple(slots.get(frame.data[3]), nwk),
            0x0031: lambda: b"\0\0\0\0",
            0x0036: lambda: b"\0",
            0x0038: lambda: (
                b"\0" + frame.data[1:5] + bytes(4) + bytes((16,)) + bytes(range(10, 26))
            ),
        }
        answer = answers.get(frame.cluster, lambda: b"\x84")()
        self._indicate(SELF_NWK, Frame(0, frame.cluster | 0x8000, 0, 0, sequence + answer))


def _simple(slot: bytes | None, nwk: bytes) -> bytes:
    if slot is None:
        return b"\x82" + nwk + b"\0"
    return b"\0" + nwk + bytes((len(slot),)) + slot
