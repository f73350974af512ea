"""What EdgeCore's rooms need of each other; what edged and MetaServer ask is here too."""

from __future__ import annotations

from typing import Protocol

from gateway.model.json import Json, JsonObject
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.applications import Application
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged

APPLICATION_SECONDS = 10.0


class ObjectTaker(Protocol):
    """A room that works on objects of one type; told after the object is on disk and acknowledged."""

    def object_changed(self, change: ObjectChanged, trace: TraceContext | None) -> None:
        """Take a change. Errors: GatewayError for an object of no use: it stays on disk all the same."""


class EdgeApi(Protocol):
    """The Kubernetes API as edged uses it: the cloud where it answers, the disk where that is safe.

    Errors: (of all) what the API refused: NotFound, Conflict, Forbidden and other children of Rejected with
            the API's code; StoreUnavailable.
    """

    async def query(self, subject: Subject, content: Json = None) -> JsonObject:
        """Return an object: the cloud's, else the stored one. Errors: NotFound when neither has it."""

    async def insert(self, subject: Subject, body: JsonObject) -> JsonObject:
        """Create an object in the cloud; stored as the cloud answers. Errors: Undeliverable offline."""

    async def patch(self, subject: Subject, text: str) -> JsonObject:
        """Patch a status; the patch is stored first. Errors: Undeliverable offline: patch again later."""

    async def delete(self, subject: Subject, options: JsonObject) -> None:
        """Ask the cloud to delete an object; it goes from the disk when the cloud says so.

        Errors: Undeliverable offline.
        """

    async def token(self, namespace: str, account: str, request: JsonObject) -> JsonObject:
        """Return a TokenRequest with its status: a stored one by the same request until 80 % of its life.

        Errors: Undeliverable offline without one that is still valid.
        """


class CloudApi(Protocol):
    """The Kubernetes API through the cloud, as MetaServer uses it."""

    async def apply(self, app: Application, seconds: float = APPLICATION_SECONDS) -> Application:
        """Send an Application and return its answer, approved or rejected.

        Errors: Undeliverable offline or without an answer in time.
        """


class Images(Protocol):
    """The container runtime's images."""

    async def pull(self, image: str, secret: JsonObject | None, seconds: float) -> None:
        """Pull an image, with the credentials of a `kubernetes.io/dockerconfigjson` Secret.

        Errors: Rejected for an image that cannot be had; Undeliverable for a runtime or registry away.
        """
