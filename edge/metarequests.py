"""A request to MetaServer as a value: which resource, which verb, which options.

Source: KubeEdge reference, section 13.1; Kubernetes API concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from gateway.errors import BadRequest, MethodNotAllowed, NotFound
from gateway.runtime.small_service import Request
from gateway.wire.cloudedge.applications import ApiKey
from gateway.wire.kube.names import path_segment_fault
from gateway.wire.kube.requests import Target, flag, parse_target

MAX_FIELDS = 100
MAX_QUERY = 8_192
PASSED = ("api", "apis", "version", "healthz", "livez", "readyz", "openapi")
"""First parts of the paths that are passed through to the cloud."""


METHODS = "methods"
"""The one subresource with names below it: `devices/<device>/methods/<method>`."""
MAX_DEPTH = 6
_DEPTHS = {"api": 2, "apis": 3}


@dataclass(frozen=True, slots=True)
class Call:
    """A request about objects.

    Shape:  `verb` of the API (get, list, watch, create, update, patch, delete); `group` "" for core; names
            are "" where there is none; `item` is the name below a subresource that has such.
    """

    verb: str
    group: str
    version: str
    plural: str
    namespace: str
    name: str
    subresource: str
    query: Mapping[str, str]
    item: str = ""

    @property
    def key(self) -> ApiKey:
        return ApiKey(
            self.group, self.version, self.plural, self.namespace or None, self.name or None
        )

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, slots=True)
class Passed:
    """A request for a plain path: discovery, version, health."""

    path: str


def read_request(request: Request) -> Call | Passed:
    """Read what a request is about.

    Errors: NotFound for other paths; BadRequest for names that cannot be; MethodNotAllowed.
    """
    parts = [unquote(part) for part in request.path.split("/") if part]
    path, item = _without_item(request.path)
    target = _target(path)
    if target is None:
        depth = _DEPTHS.get(parts[0], MAX_DEPTH) if parts else 0
        if not 0 < len(parts) <= depth or parts[0] not in PASSED or not _is_plain(parts):
            raise NotFound("the server could not find the requested resource")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("only GET is served here")
        return Passed("/" + "/".join(part for part in request.path.split("/") if part))
    group, _, version = target.group_version.rpartition("/")
    named = (target.plural, target.namespace, target.name, target.subresource, item)
    for part in (group, version, *named):
        _check(part)
    query = read_query(request.query)
    verb = _verb(request.method, target.name, query)
    return Call(
        verb,
        group,
        version,
        target.plural,
        target.namespace,
        target.name,
        target.subresource,
        query,
        item,
    )


def _without_item(path: str) -> tuple[str, str]:
    """Split the name below `methods` of a Device from its path; "" where there is none."""
    parts = [part for part in path.split("/") if part]
    if len(parts) == 9 and parts[0] == "apis" and (parts[5], parts[7]) == ("devices", METHODS):
        return "/" + "/".join(parts[:8]), unquote(parts[8])
    return path, ""


def _is_plain(parts: list[str]) -> bool:
    return not any(p in (".", "..") or "/" in p or not p.isprintable() for p in parts)


def _target(path: str) -> Target | None:
    """Read a path whose parts may be escaped: an escaped slash is part of a name, and no name has one."""
    found = parse_target(path)
    if found is None:
        return None
    return Target(
        unquote(found.group_version),
        unquote(found.plural),
        unquote(found.namespace),
        unquote(found.name),
        unquote(found.subresource),
    )


def _check(part: str) -> None:
    fault = path_segment_fault(part) if part else ""
    if fault or not part.isprintable() or len(part) > 253:
        raise BadRequest(f"a part of the path cannot be: {part[:100]!r}: {fault or 'malformed'}")


def read_query(text: str) -> dict[str, str]:
    """Read a query; of repeated fields the first counts. Errors: BadRequest."""
    if len(text) > MAX_QUERY:
        raise BadRequest(f"a query of at most {MAX_QUERY} characters is taken, got {len(text)}")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise BadRequest(f"the query cannot be read: {error}") from None
    found: dict[str, str] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method in ("GET", "HEAD"):
        if flag(query, "watch"):
            return "watch"
        return "get" if name else "list"
    verb = _VERBS.get(method)
    if verb is None or (verb != "create" and not name):
        raise MethodNotAllowed("the server does not allow this method on the requested resource")
    return verb
