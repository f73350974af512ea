"""Where a Device's properties are over HTTP, from configData; bodies become readings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Reading
from edge.mappers.http.targets import FOLLOW, Follow
from edge.mappers.readings import bad, reading_of, source_time
from gateway.errors import BadRequest, Rejected
from gateway.model.json import Json
from gateway.model.jsonpath import Absent, Path, find, parse_path
from gateway.wire.cloudedge.values import Typed, ValueRule

METHODS: Final = {method.lower(): method for method in ("GET", "POST", "PUT", "PATCH", "DELETE")}
MAX_BODY: Final = 1_048_576
_CRLF: Final = frozenset("\r\n\0")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked to read a property; properties with the same one share an answer."""

    url: str
    method: str = "GET"
    body: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """One property: the request that reads it and where in the answer, and how it is written."""

    name: str
    request: Request | None
    path: Path | None
    time_path: Path | None
    command_url: str = ""
    command_method: str = "PUT"
    command_body: str = "{value}"
    command_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Access:
    """What all requests of a Device have in common. Units: `seconds`; `max_body` bytes."""

    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str = ""
    certificate: str = ""
    private_key: str = ""
    seconds: float = 5.0
    max_body: int = 262_144
    max_redirects: int = 3
    follow: Follow = Follow.SAME
    allow_local: bool = False
    """Names may lead to this machine's own services, and redirects, too."""


def place_of(name: str, config: ConfigData, device: ConfigData) -> Place:
    """Read a visitor's configData below its Device's. Errors: Rejected, naming the key."""
    base = device.text("url")
    url = _joined(base, config.text("url", "path"), config)
    command = config.text("commandUrl", "commandPath", default=device.text("commandUrl"))
    method = config.choice(
        METHODS, "method", default=device.choice(METHODS, "method", default="GET")
    )
    body = config.text("body", default=device.text("body"))
    return Place(
        name,
        Request(url, method, body) if url else None,
        _path(config, "jsonPath"),
        _path(config, "timePath") or _path(device, "timePath"),
        _joined(base, command, config) if command else "",
        config.choice(METHODS, "commandMethod", default="PUT"),
        config.text("commandBody", default="{value}"),
        config.text("commandContentType", default="application/json"),
    )


def _joined(base: str, url: str, config: ConfigData) -> str:
    whole = urljoin(base, url) if base else url
    if not whole:
        return ""
    try:
        parts = urlsplit(whole.replace("{text}", "x"))
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        is_good = False
    if not is_good:
        raise config.wrong("url", "http(s)://host[:port]/path without a password", url or base)
    return whole


def _path(config: ConfigData, key: str) -> Path | None:
    text = config.text(key)
    try:
        return parse_path(text) if text else None
    except BadRequest as error:
        raise Rejected(f"{config.where}.{key}: {error.message}") from error


def access_of(config: ConfigData, secret_headers: Mapping[str, str]) -> Access:
    """Read what a Device says of all its requests. Errors: Rejected, naming the key."""
    headers = {**config.texts("headers"), **secret_headers}
    for name, text in headers.items():
        if _CRLF & set(name + text) or not name:
            raise Rejected(
                f"{config.where}.headers: {name[:40]!r} has characters that cannot be sent"
            )
    access = Access(
        headers,
        config.text("caFile"),
        config.text("certificate"),
        config.text("privateKey"),
        config.number("timeout", default=5.0),
        config.integer("maxBody", default=262_144, low=1, high=MAX_BODY),
        config.integer("maxRedirects", default=3, high=10),
        config.choice(FOLLOW, "followRedirects", default=Follow.SAME),
        config.flag("allowLocal"),
    )
    if not 0.05 <= access.seconds <= 9:
        raise config.wrong("timeout", "seconds up to 9", config.values.get("timeout"))
    if bool(access.certificate) != bool(access.private_key):
        raise Rejected(f"{config.where}: certificate and privateKey belong together")
    return access


def header_lines(text: str) -> dict[str, str]:
    """Read `Name: value` lines. Errors: Rejected, without what they say."""
    headers = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if line.strip() and (not colon or not name.strip()):
            raise Rejected("headersFile: expected lines of Name: value")
        if line.strip():
            headers[name.strip()] = value.strip()
    return headers


@dataclass(frozen=True, slots=True)
class Document:
    """A body: JSON where it is some, else text, else nothing but an error."""

    value: Json | Absent
    text: str
    why: str = ""

    @classmethod
    def read(cls, body: bytes) -> Document:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return cls(Absent(), "", "the body is no UTF-8")
        try:
            return cls(msgspec.json.decode(body), text)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return cls(Absent(), text.strip())

    def reading(self, place: Place, rule: ValueRule, now: int) -> Reading | None:
        """Return what the body says of a property, None where it says nothing."""
        if self.why:
            return bad(self.why, now)
        if isinstance(self.value, Absent):
            if place.path is not None:
                return bad("the body is no JSON", now)
            return reading_of(rule, self.text, now)
        found = self._found(place)
        if isinstance(found, Absent):
            return None
        at = now
        if place.time_path is not None:
            at = source_time(find(self.value, place.time_path), now)
        return reading_of(rule, found, at)

    def _found(self, place: Place) -> Json | Absent:
        if isinstance(self.value, Absent):
            return self.value
        if place.path is not None:
            return find(self.value, place.path)
        if isinstance(self.value, dict):
            return self.value.get(place.name, Absent())
        return self.value


def command(place: Place, text: str, value: Typed) -> tuple[str, str, bytes]:
    """Return method, URL and body that write a value."""
    url = place.command_url.replace("{text}", quote(text, safe=""))
    encoded = msgspec.json.encode(value).decode()
    body = place.command_body.replace("{value}", encoded).replace("{text}", text)
    return place.command_method, url, body.encode()
