"""A create of a subresource: something asked of an object, and who answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache

from gateway.kube.admission import Remarks, WriteOptions
from gateway.kube.typedata import catalogue
from gateway.kube.watch import Stored
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.resources import ResourceType, Subresource

CREATED = 201


@dataclass(frozen=True, slots=True)
class Question:
    """Shape: `stored` is what is asked, `body` the document that asks, read as its kind."""

    resource: ResourceType
    stored: Stored
    body: JsonObject
    options: WriteOptions


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client is told, and warned of."""

    body: JsonObject
    remarks: Remarks


Asking = Callable[[Question], Awaitable[JsonObject]]
"""Errors: of what was asked for."""


@cache
def asked_kind(group: str, version: str, kind: str) -> ResourceType:
    """The kind of documents that ask: read and judged as others are, never stored."""
    package = group.partition(".")[0] or "core"
    name = f"io.k8s.api.{package}.{version}.{kind}"
    return ResourceType(
        group=group,
        version=version,
        plural=f"{kind.lower()}s",
        singular=kind.lower(),
        kind=kind,
        namespaced=True,
        verbs=("create",),
        schema=catalogue().get(name),
        type_name=name,
        is_virtual=True,
    )


def kind_of(resource: ResourceType, sub: Subresource) -> ResourceType:
    """The kind of documents that a subresource takes."""
    return asked_kind(sub.group or resource.group, sub.version or resource.version, sub.kind)


EARLIER = {"policy/v1beta1": "policy/v1"}
"""Versions that documents may still be of, whose fields are the same."""


def of_today(body: Json) -> Json:
    """A document of an earlier version as one of the version that is served."""
    version = body.get("apiVersion") if isinstance(body, dict) else None
    if isinstance(body, dict) and isinstance(version, str) and version in EARLIER:
        return {**body, "apiVersion": EARLIER[version]}
    return body


def done() -> JsonObject:
    """The answer to what has been done and leaves nothing to show."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": CREATED,
    }
