"""A request line becomes a value: which kind, which object, which verb; what the client accepts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from gateway.errors import BadRequest

_SUBRESOURCES_OF_NAMESPACES = ("status", "finalize")


@dataclass(frozen=True, slots=True)
class Target:
    """What a path below `/api/v1` or `/apis/GROUP/VERSION` names."""

    group_version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_target(path: str) -> Target | None:
    """Read a resource path; None for a path of another form.

    Shape:  `/api/v1[/namespaces/NS]/PLURAL[/NAME[/SUBRESOURCE]]`, `/apis/GROUP/VERSION/...` likewise;
            `/api/v1/namespaces/NS` is the namespace itself.
    """
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        return _below(parts[1], parts[2:])
    if len(parts) >= 4 and parts[0] == "apis":
        return _below(f"{parts[1]}/{parts[2]}", parts[3:])
    return None


def _below(group_version: str, parts: list[str]) -> Target | None:
    namespace = ""
    if parts[0] == "namespaces" and len(parts) >= 3 and parts[2] not in _SUBRESOURCES_OF_NAMESPACES:
        namespace, parts = parts[1], parts[2:]
    if len(parts) > 3:
        return None
    name, subresource = [*parts[1:], "", ""][:2]
    return Target(group_version, parts[0], namespace, name, subresource)


# --- what the client accepts ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """The form of an answer: `form` is `object`, `table` or `partial`; `version` of meta.k8s.io."""

    form: str = "object"
    version: str = "v1"


PLAIN = Wanted()
MAX_ACCEPT = 8_192


def media_parts(text: str) -> tuple[str, dict[str, str]]:
    """Split a media type into its lower-case name and its parameters."""
    name, *parameters = (part.strip() for part in text.split(";"))
    pairs = (part.partition("=") for part in parameters)
    return name.lower(), {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}


def negotiate(accept: str | None) -> Wanted | None:
    """The first form of JSON that the client takes; None when it takes none."""
    if not accept:
        return PLAIN
    for item in accept[:MAX_ACCEPT].split(","):
        name, parameters = media_parts(item)
        if name not in ("application/json", "*/*", "application/*"):
            continue
        form = _FORMS.get(parameters.get("as", ""))
        if form is not None and parameters.get("g", "meta.k8s.io") in ("meta.k8s.io", ""):
            version = parameters.get("v", "v1")
            if form == "object" or version in ("v1", "v1beta1"):
                return Wanted(form, version if form != "object" else "v1")
    return None


_FORMS = {
    "": "object",
    "Table": "table",
    "PartialObjectMetadata": "partial",
    "PartialObjectMetadataList": "partial",
}


def aggregated_version(accept: str | None, known: tuple[str, ...]) -> str | None:
    """The version of aggregated discovery that the client asks for; None for the plain form."""
    for item in (accept or "")[:MAX_ACCEPT].split(","):
        name, parameters = media_parts(item)
        if name == "application/json" and parameters.get("as") == "APIGroupDiscoveryList":
            if parameters.get("v") in known:
                return parameters["v"]
        elif name in ("application/json", "*/*") and "as" not in parameters:
            return None
    return None


# --- numbers, flags and tokens in the query ---------------------------------------------------------


def flag(query: Mapping[str, str], key: str) -> bool | None:
    """Read a boolean parameter; None when it is absent. Errors: BadRequest."""
    text = query.get(key)
    if text is None:
        return None
    if text.lower() in ("true", "1", "t", ""):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise BadRequest(f'{key}: expected true or false, got "{text}"')


def number(query: Mapping[str, str], key: str) -> int | None:
    """Read a whole number; None when it is absent. Errors: BadRequest."""
    text = query.get(key)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadRequest(f'{key}: expected a whole number, got "{text}"')
    return int(text)


def resource_version(query: Mapping[str, str]) -> int | None:
    """Read `resourceVersion`; None when it is absent. Errors: BadRequest."""
    try:
        return number(query, "resourceVersion")
    except BadRequest as error:
        text = query["resourceVersion"]
        raise BadRequest(f'resourceVersion: Invalid value: "{text}": invalid version') from error


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where a list goes on: the snapshot's version and the last namespace and name."""

    version: int
    namespace: str
    name: str


def write_token(token: PageToken) -> str:
    text = msgspec.json.encode([token.version, token.namespace, token.name])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def read_token(text: str) -> PageToken:
    """Read a continue token. Errors: BadRequest."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version, namespace, name = msgspec.json.decode(raw, type=tuple[int, str, str])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise BadRequest(
            "continue key is not valid: it was not given out by this server"
        ) from error
    return PageToken(version, namespace, name)
