"""Images that are made here, for machines without a registry: a pause image, and a sample that says hello.

Both hold one static program of some hundred bytes, written below as machine code. Pure.
Sources: ELF-64; Linux system calls of x86-64 and arm64; OCI image layout and image specification 1.0.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.errors import BadRequest

HEARTBEAT = "twinspan.local/heartbeat:1"
SECONDS = 5
_BASE, _HEADS = 0x400000, 64 + 56
_SIGNALS = 1 << 14 | 1 << 1
"""SIGTERM and SIGINT: the sample waits for them; a first process gets no signal that it does not ask for."""
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one layer, as the bytes that its digests are of."""

    manifest: bytes
    config: bytes
    layer: bytes


def pause_image(machine: str) -> Image:
    """Return an image whose program sleeps. `machine` as `platform.machine()`. Errors: BadRequest."""
    kind = _kind(machine)
    return _image({"pause": _elf(kind.elf, kind.pause)}, ["/pause"], kind.name)


def heartbeat_image(machine: str, text: str = "hello from a container at the edge") -> Image:
    """Return an image whose program writes `text` every five seconds until SIGTERM. Errors: BadRequest."""
    kind = _kind(machine)
    program = _elf(kind.elf, kind.heartbeat(text.encode() + b"\n"))
    return _image({"heartbeat": program}, ["/heartbeat"], kind.name)


def archive(images: Mapping[str, Image]) -> bytes:
    """Return an OCI image layout as a tar file, for `ctr -n k8s.io images import -`.

    Shape:  `images`: whole name with registry and tag -> image.
    """
    out, index = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        known: set[str] = set()
        for name, image in images.items():
            for blob in (image.manifest, image.config, image.layer):
                digest = _digest(blob)
                if digest not in known:
                    known.add(digest)
                    _add(tar, f"blobs/sha256/{digest.removeprefix('sha256:')}", blob)
            notes = {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            }
            index.append({**_described(_MANIFEST, image.manifest), "annotations": notes})
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": index}))
    return out.getvalue()


def _image(files: Mapping[str, bytes], entrypoint: list[str], architecture: str) -> Image:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            _add(tar, name, content, 0o755)
    layer = gzip.compress(raw.getvalue(), mtime=0)
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": entrypoint},
            "rootfs": {"type": "layers", "diff_ids": [_digest(raw.getvalue())]},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _described(_CONFIG, config),
        "layers": [_described(_LAYER, layer)],
    }
    return Image(_json(manifest), config, layer)


def _described(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


# --- programs ---------------------------------------------------------------------------------------


def _elf(machine: int, code: bytes) -> bytes:
    """Return a static program: one segment that is read and executed, the code right after the heads."""
    ident = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    head = (2, machine, 1, _BASE + _HEADS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = _HEADS + len(code)
    segment = (1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return ident + struct.pack("<HHIQQQIHHHHHH", *head) + struct.pack("<IIQQQQQQ", *segment) + code


def _data(text: bytes) -> bytes:
    """What the sample reads: signal mask (8 bytes), seconds and nanoseconds (16), text."""
    return struct.pack("<QQQ", _SIGNALS, SECONDS, 0) + text


def _x86_heartbeat(text: bytes) -> bytes:
    """Block the signals; then write the text and wait for a signal or five seconds, over and over."""
    mask, pause, words = 0, 8, 24
    steps: list[bytes | tuple[bytes, int]] = [
        b"\xb8\x0e\0\0\0\x31\xff",  # rt_sigprocmask(SIG_BLOCK,
        (b"\x48\x8d\x35", mask),  # rsi: mask
        b"\x31\xd2\x41\xba\x08\0\0\0\x0f\x05",  # no old mask, 8 bytes)
        b"\xb8\x01\0\0\0\xbf\x01\0\0\0",  # write(1,
        (b"\x48\x8d\x35", words),
        b"\xba" + struct.pack("<I", len(text)) + b"\x0f\x05",
        b"\xb8\x80\0\0\0",  # rt_sigtimedwait(
        (b"\x48\x8d\x3d", mask),
        b"\x31\xf6",
        (b"\x48\x8d\x15", pause),
        b"\x41\xba\x08\0\0\0\x0f\x05\x85\xc0",
        b"\x7e",  # no signal: write again
        b"\xb8\xe7\0\0\0\x31\xff\x0f\x05",  # exit_group(0)
    ]
    jump, again = 11, 3
    places, at = [], 0
    for number, step in enumerate(steps):
        places.append(at)
        at += (len(step[0]) + 4) if isinstance(step, tuple) else len(step) + (number == jump)
    end = -(-at // 8) * 8
    code = bytearray()
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            code += step[0] + struct.pack("<i", end + step[1] - (len(code) + len(step[0]) + 4))
        else:
            code += step
        if number == jump:
            code += struct.pack("b", places[again] - (len(code) + 1))
    return bytes(code).ljust(end, b"\x90") + _data(text)


def _arm_heartbeat(text: bytes) -> bytes:
    """The same for arm64: every instruction is four bytes."""
    size = 26 * 4
    mask, pause, words = size, size + 8, size + 24
    code: list[int] = []

    def number(register: int, value: int) -> None:
        code.append(0xD2800000 | value << 5 | register)

    def address(register: int, place: int) -> None:
        offset = place - len(code) * 4
        code.append(0x10000000 | (offset & 3) << 29 | (offset >> 2 & 0x7FFFF) << 5 | register)

    def call(which: int) -> None:
        number(8, which)
        code.append(0xD4000001)

    number(0, 0)
    address(1, mask)
    number(2, 0)
    number(3, 8)
    call(135)  # rt_sigprocmask
    again = len(code)
    number(0, 1)
    address(1, words)
    number(2, len(text))
    call(64)  # write
    address(0, mask)
    number(1, 0)
    address(2, pause)
    number(3, 8)
    call(137)  # rt_sigtimedwait
    code.append(0xF100001F)  # compare x0 with 0
    code.append(0x5400000D | (again - len(code) & 0x7FFFF) << 5)  # not above: write again
    number(0, 0)
    call(94)  # exit_group
    padded = [*code, *[0xD503201F] * (size // 4 - len(code))]
    return struct.pack(f"<{len(padded)}I", *padded) + _data(text)


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    elf: int
    pause: bytes
    heartbeat: Callable[[bytes], bytes]


_X86 = _Kind("amd64", 62, b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7", _x86_heartbeat)
_ARM = _Kind(
    "arm64",
    183,
    # ppoll of nothing, for ever; x0 is set anew each time.
    struct.pack(
        "<7I",
        0xD2800000,
        0xD2800001,
        0xD2800002,
        0xD2800003,
        0xD2800928,
        0xD4000001,
        0x17FFFFFA,
    ),
    _arm_heartbeat,
)
_KINDS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}


def _kind(machine: str) -> _Kind:
    found = _KINDS.get(machine)
    if found is None:
        raise BadRequest(f"machine: expected one of {', '.join(_KINDS)}, got {machine!r}")
    return found
