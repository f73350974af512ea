"""The data types of MQTT: reading them from the body of one packet, and writing them.

Source: MQTT 5.0, section 1.5 (3.1.1 has a part of them).
"""

from __future__ import annotations

from gateway.wire.mqtt.reasons import Fault

MAX_VARINT = 268_435_455
MAX_TEXT = 65_535


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a variable byte integer and where it ends; (-1, at) when bytes are missing.

    Errors: Fault for a fifth byte or an encoding longer than needed.
    """
    if at + 1 < end and data[at] >= 0x80 > data[at + 1] > 0:  # two bytes: nearly all there are
        return data[at] & 0x7F | data[at + 1] << 7, at + 2
    value = 0
    for index in range(4):
        if at + index >= end:
            return -1, at
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if index and not byte:
                raise Fault(f"variable byte integer at byte {at}: longer than its value needs")
            return value, at + index + 1
    raise Fault(f"variable byte integer at byte {at}: more than four bytes")


def varint(value: int) -> bytes:
    """Write a variable byte integer, 0 to 268,435,455."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"variable byte integer: expected 0 to {MAX_VARINT}, got {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def binary(value: bytes) -> bytes:
    """Write binary data with its two-byte length."""
    if len(value) > MAX_TEXT:
        raise ValueError(f"binary data: expected up to {MAX_TEXT} bytes, got {len(value)}")
    return len(value).to_bytes(2, "big") + value


def text(value: str) -> bytes:
    """Write a UTF-8 string with its two-byte length."""
    return binary(value.encode())


def utf8(raw: bytes, what: str) -> str:
    """Decode a string as MQTT wants it: well-formed, no surrogates, no U+0000.

    Errors: Fault, naming `what`.
    """
    try:
        value = raw.decode()
    except UnicodeDecodeError as error:
        raise Fault(f"{what}: not UTF-8 at its byte {error.start}") from error
    if "\0" in value:
        raise Fault(f"{what}: holds U+0000 at its character {value.index(chr(0))}")
    return value


class Body:
    """A cursor over the variable header and payload of one packet.

    Every method returns the next field and raises Fault, naming packet, field and byte, when
    it is broken or reaches past the end.
    """

    __slots__ = ("at", "data", "end", "packet")

    def __init__(self, packet: str, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.packet = packet
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        return self.end - self.at

    def fault(self, field: str, problem: str) -> Fault:
        return Fault(f"{self.packet}: {field} at byte {self.at}: {problem}")

    def _take(self, size: int, field: str) -> int:
        """Move past `size` bytes and return where they begin."""
        at = self.at
        if at + size > self.end:
            raise self.fault(field, f"expected {size} bytes, {self.left} left")
        self.at = at + size
        return at

    def byte(self, field: str) -> int:
        return self.data[self._take(1, field)]

    def two(self, field: str) -> int:
        at = self._take(2, field)
        return self.data[at] << 8 | self.data[at + 1]

    def four(self, field: str) -> int:
        at = self._take(4, field)
        return int.from_bytes(self.data[at : at + 4], "big")

    def varint(self, field: str) -> int:
        value, after = read_varint(self.data, self.at, self.end)
        if value < 0:
            raise self.fault(field, "the variable byte integer is cut short")
        self.at = after
        return value

    def binary(self, field: str) -> bytes:
        size = self.two(field)
        at = self._take(size, field)
        return self.data[at : at + size]

    def text(self, field: str) -> str:
        start = self.at
        return utf8(self.binary(field), f"{self.packet}: {field} at byte {start}")

    def packet_id(self) -> int:
        value = self.two("packet identifier")
        if not value:
            raise self.fault("packet identifier", "0 is not allowed")
        return value

    def rest(self) -> bytes:
        at, self.at = self.at, self.end
        return self.data[at : self.end]

    def finish(self) -> None:
        """Say that the packet must end here."""
        if self.at != self.end:
            raise self.fault("end", f"{self.left} bytes too many")
