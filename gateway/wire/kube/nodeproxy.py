"""`nodes/NAME/proxy/PATH`: what a kubelet is asked for through the API server.

Reads alone: what runs or changes something in containers has subresources of Pods, with rights of their own.
Source: Kubernetes API reference, "connect Get requests to proxy of Node"; kubelet `server.go`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from gateway.errors import BadRequest, Forbidden
from gateway.wire.kube.status import not_served

KUBELET_PORT = "10250"
PREFIX = ("api", "v1", "nodes")
READ = frozenset(
    {"containerLogs", "configz", "healthz", "logs", "metrics", "pods", "runningpods", "stats"}
)
"""First parts of a kubelet's paths that tell something and do nothing."""
GUARDED = frozenset({"attach", "checkpoint", "cri", "debug", "exec", "portForward", "run"})
_PLAIN = re.compile(r"(/[A-Za-z0-9._~:@+=,-]+)+/?")
_MAX_PATH = 2_000


@dataclass(frozen=True, slots=True)
class NodeProxy:
    """A request for a kubelet. Shape: `name` as in the path, with scheme and port; `path` unescaped."""

    name: str
    path: str


def parse_node_proxy(path: str) -> NodeProxy | None:
    """Read a request's path, None for one of another form."""
    parts = path.split("/", 6)
    if len(parts) < 6 or parts[0] or tuple(parts[1:4]) != PREFIX or parts[5] != "proxy":
        return None
    return NodeProxy(unquote(parts[4]), "/" + (parts[6] if len(parts) > 6 else ""))


def node_named(name: str) -> str:
    """Return the node of `NODE`, `NODE:PORT` or `SCHEME:NODE:PORT`.

    Errors: BadRequest for a port that is not the kubelet's.
    """
    scheme, node, port = _split(name)
    if port not in ("", KUBELET_PORT) or scheme not in ("", "https"):
        raise BadRequest(f"only the kubelet of a node is asked: {name[:300]}")
    return node


def _split(name: str) -> tuple[str, str, str]:
    match name.split(":"):
        case [node]:
            return "", node, ""
        case [node, port]:
            return "", node, port
        case [scheme, node, port]:
            return scheme, node, port
    raise BadRequest(f'invalid node request "{name[:300]}"')


def check_path(path: str) -> str:
    """Return the path to ask a kubelet for. Errors: Forbidden; NotFound; BadRequest."""
    if len(path) > _MAX_PATH or not _PLAIN.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise BadRequest(f"not a path of a kubelet: {path[:200]!r}")
    first = path.split("/", 2)[1]
    if first in GUARDED:
        raise Forbidden(f"{first} is not carried by nodes/proxy: use the subresources of the Pod")
    if first not in READ:
        raise not_served()
    return path.rstrip("/")
