"""A question of a node to the EdgeController, and the form of its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from cloud.sessions import Inbound
from gateway.errors import BadRequest, Forbidden
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.envelope import object_of
from gateway.wire.cloudedge.to_cloud import ResourceAsked


class Form(Enum):
    """What an answer looks like."""

    RESULT = "ObjectResp"
    BARE = "the object itself"
    OK = "the text OK"
    NONE = "no answer"


@dataclass(frozen=True, slots=True)
class Ask:
    """One question of one node."""

    node: str
    message: ResourceAsked
    inbound: Inbound

    @property
    def name(self) -> str:
        return self.message.subject.name

    @property
    def namespace(self) -> str:
        if self.message.subject.namespace is None:
            raise BadRequest(f"{self.message.subject}: a namespace is needed")
        return self.message.subject.namespace

    def object(self) -> JsonObject:
        return object_of(self.message.content)

    def own(self) -> str:
        """Return the name when it is the node's own. Errors: Forbidden."""
        if self.name != self.node:
            raise Forbidden(f"node {self.node} may not touch {self.message.subject}")
        return self.name


Answering = Callable[[Ask], Awaitable["JsonObject | list[Json] | None"]]
