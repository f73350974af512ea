"""Frames of deCONZ's serial protocol: SLIP with a checksum. Source: deCONZ Serial Protocol, section 2."""

from __future__ import annotations

END, ESC, ESC_END, ESC_ESC = 0xC0, 0xDB, 0xDC, 0xDD
MAX_FRAME = 2_048


def checksum(data: bytes) -> bytes:
    """Two's complement of the sum of all bytes, little endian."""
    return (-sum(data) & 0xFFFF).to_bytes(2, "little")


def encode(data: bytes) -> bytes:
    """Return one frame as it goes over the line."""
    escaped = bytearray()
    for byte in data + checksum(data):
        if byte == END:
            escaped += bytes((ESC, ESC_END))
        elif byte == ESC:
            escaped += bytes((ESC, ESC_ESC))
        else:
            escaped.append(byte)
    return bytes((END, *escaped, END))


class Decoder:
    """Takes bytes as they come, gives whole frames; frames with a wrong checksum are dropped."""

    def __init__(self) -> None:
        self._frame = bytearray()
        self._is_escaped = False
        self.broken = 0

    def feed(self, data: bytes) -> list[bytes]:
        frames = []
        for byte in data:
            if byte == END:
                frame = self._finish()
                if frame:
                    frames.append(frame)
            elif self._is_escaped:
                self._is_escaped = False
                self._frame.append({ESC_END: END, ESC_ESC: ESC}.get(byte, byte))
            elif byte == ESC:
                self._is_escaped = True
            elif len(self._frame) < MAX_FRAME:
                self._frame.append(byte)
        return frames

    def _finish(self) -> bytes:
        frame, self._frame, self._is_escaped = bytes(self._frame), bytearray(), False
        if not frame:
            return b""
        if len(frame) < 5 or checksum(frame[:-2]) != frame[-2:]:
            self.broken += 1
            return b""
        return frame[:-2]
