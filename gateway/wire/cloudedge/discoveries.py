"""Devices that a node sees and that may be nobody's Device yet, as an edge tells its cloud.

An extension: KubeEdge has no words for it, so it goes only to a CloudCore that says it acknowledges uploads.
Texts come from radios and from strangers' machines. They are cleaned here, on both ends of the link: what
cannot be shown safely is cut, what cannot be used is left out.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from gateway.errors import BadRequest
from gateway.wire.cloudedge.envelope import Envelope, Route, Stamp, make, struct_of
from gateway.wire.cloudedge.names import Group, Operation, Source
from gateway.wire.cloudedge.values import PropertyType, parse_text

RESOURCE = "discovered"
MAX_TEXT = 128
"""Characters of a name, of a model, of one fact."""
MAX_ADDRESS = 253
MAX_PROPERTIES = 100
MAX_FACTS = 16
MAX_CONFIG = 4_096
"""Bytes of JSON of a protocol's or a visitor's configuration."""
MAX_DEVICE = 32_768
"""Bytes of JSON of one device."""

_PROTOCOL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[!-~]{1,253}")
_HARDWARE = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5,7}")
_PROPERTY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_ACCESS = frozenset({"ReadOnly", "ReadWrite"})
_TYPES = frozenset(PropertyType.__members__) - {"STREAM"}

_Long = Annotated[str, Meta(max_length=65_536)]


class SeenProperty(Struct, frozen=True, omit_defaults=True):
    """A property that the device would have; as a DeviceModel declares it."""

    name: _Long
    type: _Long
    access: _Long = "ReadOnly"
    unit: _Long = ""
    minimum: _Long = ""
    maximum: _Long = ""
    description: _Long = ""
    visitor: dict[str, Any] = {}


class SeenDevice(Struct, frozen=True, omit_defaults=True):
    """A device that a node sees.

    Shape:  `protocol` and `address` tell it from all others of the node; `config` is what its Device has as
            `protocol.configData`; `signal` in dBm, 0 for unknown; `first` and `last` when it was seen, Unix
            ms by the node's clock.
    """

    protocol: _Long
    address: _Long
    name: _Long = ""
    model: _Long = ""
    manufacturer: _Long = ""
    signal: int = 0
    config: dict[str, Any] = {}
    properties: tuple[SeenProperty, ...] = ()
    facts: dict[str, _Long] = {}
    first: int = 0
    last: int = 0

    @property
    def key(self) -> str:
        """What tells it from all others of its node: a DNS label's letters, at most 120 of them."""
        return key_of(self.protocol, self.address)


def key_of(protocol: str, address: str) -> str:
    """Return the part of an object's name that stands for a device.

    Shape:  `bluetooth-a4c138aabbcc`; addresses that are no hardware address carry a hash, so that two that
            differ only in letters that names cannot have stay two.
    """
    lower = address.lower()
    if _HARDWARE.fullmatch(lower):
        return f"{_slug(protocol, 48)}-{lower.replace(':', '')}"
    digest = hashlib.sha256(f"{protocol}\0{address}".encode()).hexdigest()[:10]
    return f"{_slug(protocol, 48)}-{_slug(address, 48)}-{digest}"


def _slug(text: str, most: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:most].strip("-") or "x"


def shown(text: str, most: int = MAX_TEXT) -> str:
    """Return a stranger's text as it may be shown: one line, nothing hidden in it, cut where it is long."""
    normal = unicodedata.normalize("NFC", text[: 4 * most])
    seen = "".join(" " if c.isspace() else c for c in normal if c.isspace() or _is_shown(c))
    line = " ".join(seen.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _is_shown(letter: str) -> bool:
    return unicodedata.category(letter) not in _HIDDEN


def clean(device: SeenDevice) -> SeenDevice:
    """Return a device as it may be kept and shown.

    Errors: BadRequest for an address or protocol that cannot be one, and for what is far too large.
    """
    if _PROTOCOL.fullmatch(device.protocol) is None:
        raise BadRequest(f"protocol {device.protocol[:64]!r}: expected 1 to 63 letters and digits")
    if _ADDRESS.fullmatch(device.address) is None:
        raise BadRequest(f"address {device.address[:64]!r}: expected 1 to 253 visible letters")
    _check_config("config", device.config)
    kept = replace(
        device,
        name=shown(device.name),
        model=shown(device.model),
        manufacturer=shown(device.manufacturer),
        signal=max(-200, min(device.signal, 50)),
        properties=_properties(device.properties),
        facts=_facts(device.facts),
    )
    size = len(msgspec.json.encode(kept))
    if size > MAX_DEVICE:
        raise BadRequest(f"{device.address}: {size} bytes; at most {MAX_DEVICE}")
    return kept


def _facts(facts: dict[str, str]) -> dict[str, str]:
    items = ((shown(name, 63), shown(value)) for name, value in list(facts.items())[:MAX_FACTS])
    return {name: value for name, value in items if name}


def _properties(properties: tuple[SeenProperty, ...]) -> tuple[SeenProperty, ...]:
    """Return those that a DeviceModel can have, each name once."""
    kept: dict[str, SeenProperty] = {}
    for prop in properties[:MAX_PROPERTIES]:
        kind = prop.type.upper()
        if _PROPERTY.fullmatch(prop.name) is None or kind not in _TYPES or prop.name in kept:
            continue
        _check_config(f"{prop.name}.visitor", prop.visitor)
        kept[prop.name] = replace(
            prop,
            type=kind,
            access=prop.access if prop.access in _ACCESS else "ReadOnly",
            unit=shown(prop.unit, 32),
            minimum=_bound(prop.minimum),
            maximum=_bound(prop.maximum),
            description=shown(prop.description),
        )
    return tuple(kept.values())


def _bound(text: str) -> str:
    try:
        parse_text(PropertyType.DOUBLE, text[:65])
    except BadRequest:
        return ""
    return text if len(text) <= 64 else ""


def _check_config(where: str, config: dict[str, Any]) -> None:
    try:
        size = len(msgspec.json.encode(config))
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise BadRequest(f"{where}: {error}") from error
    if size > MAX_CONFIG:
        raise BadRequest(f"{where}: {size} bytes of configuration; at most {MAX_CONFIG}")


# --- the message ---------------------------------------------------------------------------------

MAX_NEWS = 1_000
"""Entries of each part of one message."""


class Glimpse(Struct, frozen=True, array_like=True):
    """A device that is still there: when it was seen last, and how strong."""

    last: int = 0
    signal: int = 0


class Sightings(Struct, frozen=True, omit_defaults=True):
    """What a node sees: devices that are new or changed, such as are still there, keys of lost ones."""

    seen: Annotated[tuple[SeenDevice, ...], Meta(max_length=MAX_NEWS)] = ()
    still: Annotated[dict[_Long, Glimpse], Meta(max_length=MAX_NEWS)] = {}
    gone: Annotated[tuple[_Long, ...], Meta(max_length=MAX_NEWS)] = ()


_SIGHTINGS = msgspec.json.Decoder(Sightings)


def tell_sightings(stamp: Stamp, sightings: Sightings) -> Envelope:
    """Build the message (edge). Nobody answers it: what is lost is told again."""
    route = Route(
        source=Source.DISCOVERY,
        group=Group.RESOURCE,
        operation=Operation.UPDATE,
        resource=RESOURCE,
    )
    return make(stamp, route, Raw(msgspec.json.encode(sightings)))


def read_sightings(envelope: Envelope) -> Sightings:
    """Read the message (cloud). Errors: MalformedPacket."""
    return struct_of(envelope.content, _SIGHTINGS)
