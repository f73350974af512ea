"""A request line becomes a value: which kind, which object, which verb; what the client accepts."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from gateway.errors import BadRequest
from gateway.wire.kube.jsontext import fault_of

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
    """The form of an answer.

    Shape:  `form` is `object`, `table` or `partial`; `version` of meta.k8s.io; `kind` as the client wrote it;
            `is_yaml` for YAML instead of JSON.
    """

    form: str = "object"
    version: str = "v1"
    kind: str = field(default="", compare=False)
    is_yaml: bool = False


PLAIN = Wanted()
MAX_ACCEPT = 8_192


def media_parts(text: str) -> tuple[str, dict[str, str]]:
    """Split a media type into its lower-case name and its parameters."""
    name, *parameters = (part.strip() for part in text.split(";"))
    pairs = (part.partition("=") for part in parameters)
    return name.lower(), {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}


_MEDIA = ("application/json", "application/yaml", "*/*")


def takes_media(accept: str | None) -> bool:
    """True when the client takes one of the media types that there are, in whatever form."""
    return not accept or any(name in _MEDIA for name, _ in accepted(accept))


def accepted(accept: str | None) -> list[tuple[str, dict[str, str]]]:
    """The media types that a client takes, the dearest first; `*/*` comes after what is named."""
    items = [media_parts(item) for item in (accept or "")[:MAX_ACCEPT].split(",")]
    return sorted(items, key=lambda item: (-_dearness(item[1].get("q")), item[0] == "*/*"))


def _dearness(text: str | None) -> float:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        return 1.0


def negotiate(accept: str | None, *, watches: bool = False) -> Wanted | None:
    """The form of JSON or YAML that the client would rather have; None when it takes none.

    A stream of events is JSON, and may be asked for as one.
    """
    if not accept:
        return PLAIN
    for name, parameters in accepted(accept):
        if name not in _MEDIA or (watches and name == "application/yaml"):
            continue
        if parameters.get("stream", "") not in (("", "watch") if watches else ("",)):
            continue
        kind = parameters.get("as", "")
        form, is_yaml = _FORMS.get(kind), name == "application/yaml"
        version = parameters.get("v", "")
        if form == "object":
            return Wanted(is_yaml=True) if is_yaml else PLAIN
        if form and parameters.get("g") == "meta.k8s.io" and version in ("v1", "v1beta1"):
            return Wanted(form, version, kind, is_yaml)
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
    """Read a boolean parameter, true unless it says otherwise; None when it is absent."""
    text = query.get(key)
    return None if text is None else text.lower() not in ("false", "0")


_INTEGER = re.compile(r"[+-]?[0-9]+")
_DIGITS = 30
"""What is longer is out of range whatever follows."""


def integer(query: Mapping[str, str], key: str) -> int | None:
    """Read a whole number; None when it is absent. Errors: BadRequest."""
    text = query.get(key)
    if text is None:
        return None
    if not _INTEGER.fullmatch(text):
        raise BadRequest(f"strconv.ParseInt: parsing {_quoted(text)}: invalid syntax")
    found = int(text[:_DIGITS])
    if not -(2**63) <= found < 2**63:
        raise BadRequest(f"strconv.ParseInt: parsing {_quoted(text)}: value out of range")
    return found


def number(query: Mapping[str, str], key: str) -> int | None:
    """Read how many; None when it is absent or below 0. Errors: BadRequest."""
    found = integer(query, key)
    return None if found is not None and found < 0 else found


def resource_version(query: Mapping[str, str]) -> int | None:
    """Read `resourceVersion`; None when it is absent. Errors: BadRequest."""
    text = query.get("resourceVersion")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadRequest(f"resourceVersion: Invalid value: {_quoted(text)}: {_no_uint(text)}")
    return int(text)


def _no_uint(text: str) -> str:
    return f"strconv.ParseUint: parsing {_quoted(text)}: invalid syntax"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where a list goes on: the snapshot's version and the last namespace and name."""

    version: int
    namespace: str
    name: str


_FORM_OF_TOKENS = "meta.k8s.io/v1"
INCONSISTENT = -1
"""The version of a token that goes on with the newest state, whatever changed meanwhile."""


def write_token(token: PageToken) -> str:
    start = f"{token.namespace}/{token.name}\0" if token.namespace else f"{token.name}\0"
    text = msgspec.json.encode({"v": _FORM_OF_TOKENS, "rv": token.version, "start": start})
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def read_token(text: str) -> PageToken:
    """Read a continue token. Errors: BadRequest."""
    odd = _NO_TOKEN.search(text)
    if odd is not None or len(text) % 4 == 1:
        at = odd.start() if odd is not None else len(text) - 1
        raise _bad_token(f"illegal base64 data at input byte {at}")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    try:
        found = msgspec.json.decode(raw, type=_Token)
    except (ValueError, RecursionError) as error:
        raise _bad_token(fault_of(raw)) from error
    if found.v != _FORM_OF_TOKENS:
        raise _bad_token(f"server does not recognize this encoded version {found.v}")
    if not found.start or found.rv == 0 or found.rv < INCONSISTENT:
        raise _bad_token("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
    namespace, _, name = found.start.removesuffix("\0").rpartition("/")
    return PageToken(found.rv, namespace, name)


_NO_TOKEN = re.compile(r"[^A-Za-z0-9_-]")


class _Token(msgspec.Struct):
    v: str = ""
    rv: int = 0
    start: str = ""


def _bad_token(why: str) -> BadRequest:
    return BadRequest(f"invalid continue token: continue key is not valid: {why}")
