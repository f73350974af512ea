"""A fake cloud with a small Kubernetes API behind its Applications: objects, watches, refusals."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.wire.cloudedge.applications import (
    ApiKey,
    Application,
    ApplicationAsked,
    Verb,
    WatchesSynced,
    answer_application,
    answer_watches,
    approved,
    rejected,
)
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_cloud import ToCloud
from gateway.wire.cloudedge.to_edge import change_object
from tests.integration.edge_cloud import Authority, FakeCloud, a_cloud, stamp
from tests.integration.edge_support import until

KINDS = {"pods": "Pod", "configmaps": "ConfigMap", "secrets": "Secret", "lamps": "Lamp"}
RAW = {
    "/version": {"major": "1", "minor": "99", "gitVersion": "v1.99.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
}


class Refused(Exception):
    """A Status instead of an answer."""

    def __init__(self, code: int, reason: str, message: str = "no") -> None:
        super().__init__(message)
        self.status: dict[str, Any] = {
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }


class ApiCloud(FakeCloud):
    """Objects by key `(plural, namespace, name)`; watches by Application id."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority)
        self.api: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.asked: list[Application] = []
        self.watches: dict[str, Application] = {}
        self.synced: list[set[str]] = []
        self.version = 1_000
        self.answers_api = True
        self.refuse: Callable[[Application], None] = lambda _app: None
        self.tokens: dict[str, str] = {}

    # --- what happens in the cluster ------------------------------------------------------------

    def apply(self, plural: str, name: str, *, labels: Any = None, **fields: Any) -> dict[str, Any]:
        """Write an object of namespace `default` without telling any watch."""
        self.version += 1
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": str(self.version),
            "labels": labels or {},
        }
        item = {"apiVersion": "v1", "kind": KINDS[plural], "metadata": metadata, **fields}
        self.api[plural, "default", name] = item
        return item

    async def tell(self, plural: str, name: str, operation: Operation = Operation.UPDATE) -> None:
        """Send an object to the edge as its watch would, and wait for the acknowledgement."""
        item = self.api[plural, "default", name]
        await self._tell(plural, item, operation)

    async def _tell(self, plural: str, item: dict[str, Any], operation: Operation) -> None:
        subject = Subject("default", KINDS[plural].lower(), item["metadata"]["name"])
        version = item["metadata"]["resourceVersion"]
        envelope = change_object(
            stamp(), subject, operation, item, version=version, source=Source.DYNAMIC_CONTROLLER
        )
        await self.send(envelope)
        await until(lambda: self.acknowledged(envelope))

    async def remove(self, plural: str, name: str, *, is_told: bool = True) -> None:
        item = self.api.pop((plural, "default", name))
        if is_told:
            await self._tell(plural, item, Operation.DELETE)

    # --- requests ---------------------------------------------------------------------------------

    def _answer(self, asked: Envelope, message: ToCloud) -> Envelope | None:
        if isinstance(message, ApplicationAsked):
            self.asked.append(message.application)
            if not self.answers_api:
                return None
            return answer_application(asked, stamp(), self._apply(message.application))
        if isinstance(message, WatchesSynced):
            self.synced.append(set(message.live))
            self.watches = dict(message.live)
            return answer_watches(asked, stamp(), {})
        return super()._answer(asked, message)

    def _apply(self, app: Application) -> Application:
        try:
            self.refuse(app)
            found = self._do(app, ApiKey.parse(app.key))
        except Refused as error:
            return rejected(app, error.status)
        return approved(app, b"" if found is None else json.dumps(found).encode())

    def _do(self, app: Application, key: ApiKey) -> Any:
        if key.raw:
            if key.raw not in RAW:
                raise Refused(404, "NotFound")
            return RAW[key.raw]
        if key.resource == "tokenreviews":
            return self._review(json.loads(app.request_bytes()))
        place = (key.resource, key.namespace or "", key.name or "")
        match app.verb:
            case Verb.LIST:
                return self._list(key, app.option_json())
            case Verb.WATCH:
                self.watches[app.id] = app
                return None
            case Verb.CREATE:
                body = json.loads(app.request_bytes())
                name = body["metadata"]["name"]
                if (key.resource, key.namespace, name) in self.api:
                    raise Refused(409, "AlreadyExists")
                return self.apply(key.resource, name, **_fields(body))
        if place not in self.api:
            raise Refused(404, "NotFound", f'{key.resource} "{key.name}" not found')
        return self._change(app, key, place)

    def _change(self, app: Application, key: ApiKey, place: tuple[str, str, str]) -> Any:
        name = key.name or ""
        match app.verb:
            case Verb.UPDATE | Verb.UPDATE_STATUS:
                return self.apply(key.resource, name, **_fields(json.loads(app.request_bytes())))
            case Verb.PATCH:
                data: Any = app.option_json()["Data"]
                patch = json.loads(base64.b64decode(data))
                return self.apply(
                    key.resource, name, **{**_fields(self.api[place]), **_fields(patch)}
                )
            case Verb.DELETE:
                self.api.pop(place)
                return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return self.api[place]

    def _list(self, key: ApiKey, option: Any) -> Any:
        if key.resource not in KINDS:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        labels = dict(
            part.split("=") for part in option.get("labelSelector", "").split(",") if part
        )
        items = [
            item
            for (plural, namespace, _), item in sorted(self.api.items())
            if plural == key.resource
            and key.namespace in (None, namespace)
            and labels.items() <= item["metadata"]["labels"].items()
        ]
        return {
            "kind": f"{KINDS[key.resource]}List",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(self.version)},
            "items": [
                {k: v for k, v in i.items() if k not in ("kind", "apiVersion")} for i in items
            ],
        }

    def _review(self, body: Any) -> Any:
        user = self.tokens.get(body["spec"]["token"])
        status: Any = {"authenticated": user is not None, "user": {"username": user or ""}}
        return {**body, "status": status}


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in body.items() if k not in ("metadata", "kind", "apiVersion")}


@asynccontextmanager
async def an_api_cloud(folder: Path) -> AsyncIterator[ApiCloud]:
    await asyncio.to_thread(folder.mkdir)
    async with a_cloud(folder, ApiCloud) as cloud:
        yield cloud
