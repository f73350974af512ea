"""Counts the API's requests as a kube-apiserver does: by verb, resource and code.

What a path names becomes a label only where it is served, so nobody outside can make label values.
Source: Kubernetes, `apiserver_request_total` and its kin; how verbs and scopes are named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from gateway.kube.podstreams import STREAMED
from gateway.observe.apiserver_metrics import COMPONENT
from gateway.observe.metrics import Metrics
from gateway.wire.kube.nodeproxy import parse_node_proxy
from gateway.wire.kube.requests import Target, flag, parse_target
from gateway.wire.kube.resources import ResourceType

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
READS: Final = frozenset({"GET", "LIST"})
LONG: Final = frozenset({"WATCH", "CONNECT"})
APPLY: Final = "application/apply-patch"
SERVER: Final = "kube"

Labels = tuple[str, str, str, str, str, str, str, str]
"""verb, dry_run, group, version, resource, subresource, scope, component"""
Find = Callable[[str, str], ResourceType | None]


class RequestMeter:
    """Shape:  `find` gives the kind that is served under a group version and plural."""

    def __init__(self, metrics: Metrics, find: Find) -> None:
        self._metrics = metrics
        self._find = find

    def begin(self, request: web.Request) -> Labels:
        """A request has come; returns what `end` needs."""
        labels = labels_of(request, self._find)
        self._open(labels, 1)
        return labels

    def end(
        self, request: web.Request, labels: Labels, response: web.StreamResponse, seconds: float
    ) -> None:
        """It is answered."""
        method = request.method if request.method in METHODS else "other"
        code = str(response.status)
        self._metrics.http_requests.labels(SERVER, method, code).inc()
        if isinstance(response, web.Response):
            self._metrics.http_seconds.labels(SERVER, method).observe(seconds)
        self._metrics.apiserver.requests.labels(*labels, code).inc()
        self._metrics.apiserver.seconds.labels(*labels).observe(seconds)

    def gone(self, labels: Labels) -> None:
        """It is over, answered or not."""
        self._open(labels, -1)

    def _open(self, labels: Labels, more: int) -> None:
        verb, _, *kind = labels
        if verb in LONG:
            self._metrics.apiserver.longrunning.labels(verb, *kind).inc(more)
        else:
            which = "readOnly" if verb in READS else "mutating"
            self._metrics.apiserver.inflight.labels(which).inc(more)


def labels_of(request: web.Request, find: Find) -> Labels:
    """Return a request's labels; what is not served has the verb alone."""
    dry_run = "All" if "dryRun" in request.query else ""
    method = request.method if request.method in METHODS else "other"
    if parse_node_proxy(request.path) is not None:
        return "CONNECT", dry_run, "", "v1", "nodes", "proxy", "resource", COMPONENT
    target = parse_target(request.path)
    found = None if target is None else find(target.group_version, target.plural)
    if target is None or found is None:
        verb = "GET" if method == "HEAD" else method
        return verb, dry_run, "", "", "", "", "", COMPONENT
    group, _, version = target.group_version.rpartition("/")
    known = target.subresource and (
        found.subresource(target.subresource) is not None or target.subresource in STREAMED
    )
    return (
        _verb(request, method, target),
        dry_run,
        group,
        version,
        found.plural,
        target.subresource if known else "",
        _scope(method, target),
        COMPONENT,
    )


def _verb(request: web.Request, method: str, target: Target) -> str:
    if target.subresource in STREAMED and target.subresource != "log":
        return "CONNECT"
    if method in ("GET", "HEAD"):
        if flag(request.query, "watch"):
            return "WATCH"
        return "GET" if target.name else "LIST"
    if method == "DELETE" and not target.name:
        return "DELETECOLLECTION"
    if method == "PATCH" and request.headers.get("Content-Type", "").startswith(APPLY):
        return "APPLY"
    return method


def _scope(method: str, target: Target) -> str:
    if target.name or method == "POST":
        return "resource"
    return "namespace" if target.namespace else "cluster"
