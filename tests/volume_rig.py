"""A node's volumes without a cloud: the API is a table, events are a list."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge.pods.mounts import Mounts
from edge.pods.objects import PodObjects
from edge.pods.podspec import Container, Pod, read_pod
from edge.pods.volumecontents import NodeFacts
from edge.pods.volumes import PodVolumes
from gateway.errors import GatewayError, NotFound, Undeliverable
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged

UID = "5b0c1b9e-0000-4000-8000-000000000001"


class TableApi:
    """`edge.ports.EdgeApi` over a table; `fault` is what it answers instead."""

    def __init__(self) -> None:
        self.items: dict[str, JsonObject] = {}
        self.fault: GatewayError | None = None
        self.queries: list[str] = []
        self.requests: list[JsonObject] = []
        self.life = 3_600.0
        self.minted = 0

    def put(self, kind: str, name: str, version: int = 1, **fields: Json) -> JsonObject:
        item: JsonObject = {
            "metadata": {
                "namespace": "default",
                "name": name,
                "uid": f"uid-{name}",
                "resourceVersion": str(version),
            },
            **fields,
        }
        self.items[str(Subject("default", kind, name))] = item
        return item

    async def query(self, subject: Subject, content: Json = None) -> JsonObject:
        self.queries.append(str(subject))
        if self.fault is not None:
            raise self.fault
        found = self.items.get(str(subject))
        if found is None:
            raise NotFound(f'{subject.type}s "{subject.name}" not found')
        return found

    async def token(self, namespace: str, account: str, request: JsonObject) -> JsonObject:
        self.requests.append(request)
        if self.fault is not None:
            raise self.fault
        self.minted += 1
        ends = datetime.now(UTC) + timedelta(seconds=self.life)
        return {
            "spec": {"expirationSeconds": int(self.life)},
            "status": {
                "token": f"token-{account}-{self.minted}",
                "expirationTimestamp": ends.isoformat(),
            },
        }

    async def insert(self, subject: Subject, body: JsonObject) -> JsonObject:
        raise Undeliverable("not of this table")

    async def patch(self, subject: Subject, text: str) -> JsonObject:
        raise Undeliverable("not of this table")

    async def delete(self, subject: Subject, options: JsonObject) -> None:
        raise Undeliverable("not of this table")


class Events:
    """`edge.pods.ports.Recorder`."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        self.texts.append(f"{kind} {reason} {message}")

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.texts.append(f"{kind} {reason} {message}")


class WithoutRights(Mounts):
    """Mounts of a process that may not mount."""

    def tmpfs(self, path: Path, *, size: int, mode: int, gid: int | None = None) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))


class VolumeRig:
    """A node of its own folder."""

    def __init__(self, root: Path, mounts: Mounts | None = None) -> None:
        self.root = root
        self.api = TableApi()
        self.events = Events()
        self.mounts = mounts or Mounts()
        self.volumes, self.objects = self._started()

    def _started(self) -> tuple[PodVolumes, PodObjects]:
        objects = PodObjects(self.api)
        node = NodeFacts(
            name="edge-1",
            allocatable=lambda: {"memory": "64Mi", "cpu": "2"},
            labels=lambda: {"kubernetes.io/hostname": "edge-1"},
        )
        volumes = PodVolumes(self.root, self.api, objects, node, self.events, self.mounts)
        return volumes, objects

    def restart(self) -> None:
        """Forget all that is in memory, as the process does when it is killed."""
        self.volumes, self.objects = self._started()

    def push(self, kind: str, item: JsonObject, operation: Operation = Operation.UPDATE) -> None:
        """Change an object as the cloud does."""
        meta = item["metadata"]
        assert isinstance(meta, dict)
        subject = Subject("default", kind, str(meta["name"]))
        if operation is Operation.DELETE:
            self.api.items.pop(str(subject), None)
        else:
            self.api.items[str(subject)] = item
        change = ObjectChanged(subject, operation, item, "", Source.EDGE_CONTROLLER)
        self.objects.object_changed(change, None)

    def clean(self) -> None:
        """Leave nothing mounted."""
        self.mounts.clear(self.root)


def pod_with(
    *volumes: JsonObject,
    uid: str = UID,
    containers: list[JsonObject] | None = None,
    meta: Mapping[str, Json] | None = None,
    **spec: Json,
) -> Pod:
    """A Pod whose container `main` mounts each volume at `/<name>`."""
    mounts: list[Json] = [
        {"name": each["name"], "mountPath": f"/{each['name']}"} for each in volumes
    ]
    main: JsonObject = {"name": "main", "image": "x", "volumeMounts": mounts}
    return read_pod(
        {
            "metadata": {"name": "p", "namespace": "default", "uid": uid, **(meta or {})},
            "spec": {
                "containers": [main] if containers is None else [*containers],
                "volumes": [*volumes],
                **spec,
            },
        }
    )


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
