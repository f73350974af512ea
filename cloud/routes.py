"""What a Rule and its two RuleEndpoints say, read into a way for messages.

Source: KubeEdge reference, section 18.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from gateway.errors import BadRequest, GatewayError
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping, text, texts
from gateway.wire.mqtt.filters import check_topic

REST, EVENT_BUS, SERVICE_BUS = "rest", "eventbus", "servicebus"
MAX_ENTRY = 1_024
"""Characters of a topic, path or URL in a rule."""

Key: TypeAlias = "tuple[str, str]"


@dataclass(frozen=True, slots=True)
class RestToBus:
    """REST requests to `path` are published at the edge, to `topic`."""

    rule: Key
    path: tuple[str, ...]
    topic: str


@dataclass(frozen=True, slots=True)
class BusToRest:
    """What is published on `topic` (with the namespace before it) at `node` is sent to `url`."""

    rule: Key
    node: str
    topic: str
    url: str


@dataclass(frozen=True, slots=True)
class RestToService:
    """REST requests to `path` are requests to the service on `port` of the node, at `target`."""

    rule: Key
    path: tuple[str, ...]
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class ServiceToRest:
    """What services of `node` send to `target` is sent to `url`; `target` is a name, nothing is there."""

    rule: Key
    node: str
    target: str
    url: str


RuleRoute = RestToBus | BusToRest | RestToService | ServiceToRest


def path_of(text: str) -> tuple[str, ...]:
    """Return the levels of a path; empty ones do not count."""
    return tuple(level for level in text.split("/") if level)


def is_allowed(url: str, prefixes: tuple[str, ...]) -> bool:
    """True when `url` is below one of these URLs (same scheme, host and port; whole path levels)."""
    if not prefixes:
        return True
    asked = urlsplit(url)
    if ".." in path_of(asked.path) or "%" in asked.path:
        return False
    return any(_is_below(prefix, asked.scheme, asked.netloc, asked.path) for prefix in prefixes)


def _is_below(prefix: str, scheme: str, netloc: str, path: str) -> bool:
    parts = urlsplit(prefix)
    levels = path_of(parts.path)
    is_same = (parts.scheme, parts.netloc.lower()) == (scheme, netloc.lower())
    return is_same and path_of(path)[: len(levels)] == levels


def read_route(
    rule: JsonObject, source: JsonObject, target: JsonObject, allowed_targets: tuple[str, ...]
) -> RuleRoute:
    """Return the way that a Rule describes.

    Errors: BadRequest, saying what is missing or wrong.
    """
    meta, spec = mapping(rule.get("metadata")), mapping(rule.get("spec"))
    key = (text(meta.get("namespace")), text(meta.get("name")))
    given, wanted = texts(spec.get("sourceResource")), texts(spec.get("targetResource"))
    match _type(source), _type(target):
        case "rest", "eventbus":
            return RestToBus(key, _path(given), _topic(wanted, "targetResource"))
        case "rest", "servicebus":
            at = _entry(wanted, "targetResource", "path")
            return RestToService(key, _path(given), _port(target), at)
        case "eventbus", "rest":
            topic = f"{key[0]}/{_topic(given, 'sourceResource')}"
            url = _url(wanted, allowed_targets)
            return BusToRest(key, _entry(given, "sourceResource", "node_name"), topic, url)
        case "servicebus", "rest":
            called = _entry(given, "sourceResource", "target_url")
            node = _entry(given, "sourceResource", "node_name")
            return ServiceToRest(key, node, called, _url(wanted, allowed_targets))
        case one, other:
            raise BadRequest(f"no messages go from {one or 'nothing'} to {other or 'nothing'}")


def _type(endpoint: JsonObject) -> str:
    return text(mapping(endpoint.get("spec")).get("ruleEndpointType"))


def _entry(entries: dict[str, str], where: str, name: str) -> str:
    found = entries.get(name, "")
    if not found or len(found) > MAX_ENTRY:
        raise BadRequest(f"{where}.{name}: expected 1 to {MAX_ENTRY} characters")
    return found


def _path(entries: dict[str, str]) -> tuple[str, ...]:
    path = path_of(_entry(entries, "sourceResource", "path"))
    if not path:
        raise BadRequest("sourceResource.path: no level in it")
    return path


def _port(endpoint: JsonObject) -> int:
    port = text(mapping(mapping(endpoint.get("spec")).get("properties")).get("service_port"))
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
        raise BadRequest("properties.service_port of the target: expected a port")
    return int(port)


def _topic(entries: dict[str, str], where: str) -> str:
    topic = _entry(entries, where, "topic")
    try:
        return check_topic(topic)
    except GatewayError as error:
        raise BadRequest(f"{where}.topic: {error.message}") from error


def _url(entries: dict[str, str], allowed: tuple[str, ...]) -> str:
    url = _entry(entries, "targetResource", "resource")
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_url = False
    if not is_url:
        raise BadRequest("targetResource.resource: expected an http or https URL")
    if not is_allowed(url, allowed):
        raise BadRequest("targetResource.resource: not below cloud.router.allowed_targets")
    return url
