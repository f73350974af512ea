"""Values that a Pod's environment and volumes take from the Pod itself: fieldRef and resourceFieldRef.

Source: Kubernetes "Downward API"; texts as the kubelet of 1.36 says them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edge.pods.podspec import Container, FieldRef, Pod, ResourceFieldRef
from gateway.errors import BadRequest
from gateway.wire.kube.names import qualified_fault
from gateway.wire.kube.quantity import thousandths, units

Amounts = Mapping[str, str | int | float]
"""Amounts of resources by name, as the API writes them: a node's allocatable, a container's limits."""

HUGE_PAGES: Final = "hugepages-"
_DEFAULTED: Final = ("cpu", "memory", "ephemeral-storage")
"""What a container without a limit may use of its node; huge pages are never overcommitted."""
_OF_POD: Final = ("cpu", "memory")
"""Of these the ones that a whole Pod can be limited in."""


# --- fieldRef -------------------------------------------------------------------------------------


def field_value(
    pod: Pod, ref: FieldRef, pod_ips: Sequence[str] = (), host_ips: Sequence[str] = ()
) -> str:
    """Return a field of a Pod as text.

    Shape:  `metadata.labels` and `metadata.annotations` are lines `key="value"` in order of keys; addresses
            that are not known yet are empty.
    Errors: BadRequest for a field that cannot be asked for.
    """
    if ref.api_version not in ("", "v1"):
        raise BadRequest(f"unsupported pod version: {ref.api_version}")
    path, key = _subscript(ref.field_path)
    if key is not None:
        return _of_map(pod, ref.field_path, path, key)
    if path in _PLACES:
        return _PLACES[path](pod_ips, host_ips)
    read = _FIELDS.get(path)
    if read is None:
        raise BadRequest(f"field label not supported: {path[:200]}")
    return read(pod)


def _subscript(path: str) -> tuple[str, str | None]:
    """Split `metadata.labels['x']` into path and key; the key is None where there is none."""
    head, mark, key = path.partition("['")
    return (head, key[:-2]) if mark and head and key.endswith("']") else (path, None)


def _of_map(pod: Pod, whole: str, path: str, key: str) -> str:
    tables = {"metadata.labels": pod.meta.labels, "metadata.annotations": pod.meta.annotations}
    table = tables.get(path)
    if table is None:
        raise BadRequest(f"field label does not support subscript: {whole[:200]}")
    fault = qualified_fault(key.lower() if path == "metadata.annotations" else key)
    if fault:
        raise BadRequest(f"invalid key subscript in {whole[:200]}: {fault}")
    return table.get(key, "")


def _lines(table: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={go_quoted(table[key])}" for key in sorted(table))


_FIELDS: Final[Mapping[str, Callable[[Pod], str]]] = {
    "metadata.name": lambda pod: pod.meta.name,
    "metadata.namespace": lambda pod: pod.meta.namespace,
    "metadata.uid": lambda pod: pod.meta.uid,
    "metadata.labels": lambda pod: _lines(pod.meta.labels),
    "metadata.annotations": lambda pod: _lines(pod.meta.annotations),
    "spec.nodeName": lambda pod: pod.spec.node_name,
    "spec.host": lambda pod: pod.spec.node_name,
    "spec.serviceAccountName": lambda pod: pod.spec.service_account_name,
}
_Place = Callable[[Sequence[str], Sequence[str]], str]
_PLACES: Final[Mapping[str, _Place]] = {
    "status.hostIP": lambda _pod, host: next(iter(host), ""),
    "status.hostIPs": lambda _pod, host: ",".join(host),
    "status.podIP": lambda pod, _host: next(iter(pod), ""),
    "status.podIPs": lambda pod, _host: ",".join(pod),
}

_SHORT: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def go_quoted(text: str) -> str:
    """Return a text in double quotes, escaped as Go writes string literals."""
    return '"' + "".join(_escaped(each) for each in text) + '"'


def _escaped(mark: str) -> str:
    if mark in _SHORT:
        return _SHORT[mark]
    code = ord(mark)
    if mark.isprintable():
        return mark
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# --- resourceFieldRef -----------------------------------------------------------------------------


def resource_value(
    pod: Pod, container: Container | None, ref: ResourceFieldRef, allocatable: Amounts
) -> str:
    """Return a limit or request in units of its divisor, rounded up.

    Shape:  `container` asks; a reference that names another (volumes must) reads that one. Without a limit
            the Pod's is told, else the node's `allocatable`.
    Errors: BadRequest for a container or resource that is not known.
    """
    found = _meant(pod, container, ref.container_name)
    kind, _, resource = ref.resource.partition(".")
    is_huge = resource.startswith(HUGE_PAGES)
    if kind not in ("limits", "requests") or not (is_huge or resource in _DEFAULTED):
        raise BadRequest(f"unsupported container resource : {ref.resource[:200]}")
    amount = getattr(found.resources, kind).get(resource)
    if kind == "limits" and resource in _DEFAULTED and not thousandths(amount):
        amount = _default(pod, resource, allocatable)
    return str(_divided(resource, amount, ref.divisor))


def _meant(pod: Pod, container: Container | None, name: str) -> Container:
    if not name and container is not None:
        return container
    for each in (*pod.spec.containers, *pod.spec.init_containers):
        if each.name == name:
            return each
    raise BadRequest(f"container {name} not found")


def _default(pod: Pod, resource: str, allocatable: Amounts) -> str | int | float | None:
    of_pod = pod.spec.resources
    own = of_pod.limits.get(resource) if of_pod and resource in _OF_POD else None
    return own if thousandths(own) else allocatable.get(resource)


def _divided(resource: str, amount: str | float | None, divisor: str | int | None) -> int:
    """Processors are counted in thousandths, all else in whole units."""
    count = thousandths if resource == "cpu" else units
    return -(-count(amount) // (count(divisor) or count(1)))
