"""Where a Device's properties are over CoAP, from configData; payloads become readings. Pure.

Source: RFC 7252 (12.3 content formats), RFC 8428 (SenML), RFC 6690 (link format).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import msgspec

from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Reading
from edge.mappers.readings import bad, reading_of, source_time
from gateway.errors import BadRequest, NotBuilt, Rejected
from gateway.model.json import Json
from gateway.model.jsonpath import Absent, Path, find, parse_path
from gateway.wire.cloudedge.values import PropertyType, Typed, ValueRule

TEXT, LINKS, OCTETS, JSON, CBOR, SENML, SENML_CBOR = 0, 40, 42, 50, 60, 110, 112
FORMATS: Final = {"text": TEXT, "json": JSON, "octets": OCTETS, "senml": SENML, "senml-json": SENML}
METHODS: Final = {"put": "PUT", "post": "POST"}
MAX_PAYLOAD: Final = 65_536
MAX_RECORDS: Final = 1_000
MAX_LINKS: Final = 200


@dataclass(frozen=True, slots=True)
class Place:
    """One property: the resource that has it, where in the payload, and how it is written."""

    name: str
    url: str
    is_observed: bool
    path: Path | None
    record: str
    command_url: str
    command_method: str
    command_body: str
    command_format: int


@dataclass(frozen=True, slots=True)
class Access:
    """How a device is spoken to. Units: seconds; `refresh` between registrations of an observation."""

    url: str
    is_confirmable: bool
    ack_seconds: float
    retransmits: int
    seconds: float
    refresh: float


def access_of(config: ConfigData) -> Access:
    """Read a Device's configData. Errors: Rejected; NotBuilt for coaps and CoAP over TCP."""
    access = Access(
        _checked(config.text("url", default=None), config),
        config.flag("confirmable", default=True),
        config.number("ackTimeout", default=1.0),
        config.integer("maxRetransmit", default=2, high=4),
        config.number("timeout", default=8.0),
        config.number("observeRefresh", default=60.0),
    )
    for key, value, high in (
        ("ackTimeout", access.ack_seconds, 5.0),
        ("timeout", access.seconds, 9.0),
        ("observeRefresh", access.refresh, 86_400.0),
    ):
        if not 0.02 <= value <= high:
            raise config.wrong(key, f"seconds up to {high:g}", config.values.get(key))
    return access


def place_of(name: str, config: ConfigData, base: str) -> Place:
    """Read a visitor's configData. Errors: Rejected, naming the key."""
    url = _joined(base, config.text("path", "url"), config)
    command = config.text("commandPath", "commandUrl")
    path = config.text("jsonPath")
    try:
        steps = parse_path(path) if path else None
    except BadRequest as error:
        raise Rejected(f"{config.where}.jsonPath: {error.message}") from error
    return Place(
        name,
        url,
        config.flag("observe"),
        steps,
        config.text("senmlName"),
        _joined(base, command, config) if command else url,
        config.choice(METHODS, "commandMethod", default="PUT"),
        config.text("commandBody", default="{text}"),
        config.choice(FORMATS, "commandFormat", default=TEXT),
    )


def _joined(base: str, path: str, config: ConfigData) -> str:
    scheme, _, rest = base.partition(":")
    there = urljoin(f"http:{rest}", path)  # urljoin knows hierarchies of http alone
    if urlsplit(there).netloc != urlsplit(f"http:{rest}").netloc:
        raise config.wrong("path", "a path at the Device's server", path)
    return f"{scheme}:{there.partition(':')[2]}"


def _checked(url: str, config: ConfigData) -> str:
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        is_good = False
    if is_good and parts.scheme in ("coaps", "coap+tcp", "coaps+tcp", "coap+ws"):
        raise NotBuilt(f"{config.where}.url: {parts.scheme} is not built, coap is")
    if not is_good or parts.scheme != "coap":
        raise config.wrong("url", "coap://host[:port]/path", url)
    return url


# --- payloads ---------------------------------------------------------------------------------------


def reading(place: Place, rule: ValueRule, form: int | None, payload: bytes, now: int) -> Reading:
    """Return what a payload says of a property."""
    if len(payload) > MAX_PAYLOAD:
        return bad(f"a payload of at most {MAX_PAYLOAD} bytes is taken, got {len(payload)}", now)
    if form in (CBOR, SENML_CBOR):
        return bad("CBOR is not built; ask the device for JSON", now)
    if form == OCTETS or (rule.type is PropertyType.BYTES and form not in (JSON, SENML)):
        return reading_of(rule, payload, now)
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return bad("the payload is no UTF-8", now)
    if form not in (JSON, SENML) and place.path is None:
        return reading_of(rule, text.strip(), now)
    try:
        document: Json = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return bad("the payload is no JSON", now)
    return (
        _record(place, rule, document, now)
        if form == SENML
        else _member(place, rule, document, now)
    )


def _member(place: Place, rule: ValueRule, document: Json, now: int) -> Reading:
    found: Json | Absent = document
    if place.path is not None:
        found = find(document, place.path)
    elif isinstance(document, dict):
        found = document.get(place.name, Absent())
    if isinstance(found, Absent):
        return bad("the payload does not have it", now)
    return reading_of(rule, found, now)


@dataclass(frozen=True, slots=True)
class Record:
    """A resolved SenML record. Units: `at` in ms, 0 for now."""

    name: str
    value: Json
    at: int


def records(document: Json) -> list[Record]:
    """Resolve a SenML pack. Errors: BadRequest for one that is none."""
    if not isinstance(document, list) or len(document) > MAX_RECORDS:
        raise BadRequest(f"expected a SenML pack of at most {MAX_RECORDS} records")
    base_name, base_time, base_value = "", 0.0, 0.0
    found = []
    for entry in document:
        if not isinstance(entry, dict):
            raise BadRequest("expected objects in a SenML pack")
        base_name = str(entry.get("bn", base_name))
        base_time = _number(entry.get("bt"), base_time)
        base_value = _number(entry.get("bv"), base_value)
        value = _senml_value(entry, base_value)
        if not isinstance(value, Absent):
            time = base_time + _number(entry.get("t"), 0.0)
            at = source_time(time, 0) if time >= 2**28 else 0  # smaller ones are relative to now
            found.append(Record(base_name + str(entry.get("n", "")), value, at))
    return found


def _senml_value(entry: dict[str, Json], base: float) -> Json | Absent:
    if "v" in entry:
        value = entry["v"]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value + base if is_number and base else value  # type: ignore[operator]
    return next((entry[key] for key in ("vs", "vb", "vd") if key in entry), Absent())


def _number(value: Json, default: float) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else default


def _record(place: Place, rule: ValueRule, document: Json, now: int) -> Reading:
    try:
        pack = records(document)
    except BadRequest as error:
        return bad(error.message, now)
    wanted = place.record or place.name
    fitting = [each for each in pack if each.name == wanted or each.name.endswith(f"/{wanted}")]
    if not fitting and not place.record and len(pack) == 1:
        fitting = pack
    if not fitting:
        return bad(f"the pack has no record {wanted}", now)
    return reading_of(rule, fitting[-1].value, fitting[-1].at or now)


def command(place: Place, text: str, value: Typed) -> bytes:
    """Return the payload that writes a value."""
    encoded = msgspec.json.encode(value).decode()
    return place.command_body.replace("{value}", encoded).replace("{text}", text).encode()


# --- link format -------------------------------------------------------------------------------------

_LINK = re.compile(r'<([^<>]{0,500})>((?:;[^;,"<]{1,200}(?:"[^"]{0,500}")?)*)(?:,|$)')
_ATTRIBUTE = re.compile(r';\s*([A-Za-z*-]{1,40})(?:=(?:"([^"]*)"|([^;,"]*)))?')


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that a server tells of."""

    path: str
    attributes: dict[str, str]


def resources(text: str) -> Sequence[Resource]:
    """Read a link-format document; what is not understood is left out."""
    found = []
    for match in _LINK.finditer(text[:MAX_PAYLOAD].replace("\n", "")):
        attributes = {key: quoted or plain for key, quoted, plain in _ATTRIBUTE.findall(match[2])}
        if match[1].startswith("/") and not match[1].startswith("/.well-known/"):
            found.append(Resource(match[1], attributes))
        if len(found) >= MAX_LINKS:
            break
    return found
