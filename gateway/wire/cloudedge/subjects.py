"""Resource strings of routes as values: `<ns>/<type>/<name>`, and the ones about device twins.

Source: KubeEdge `messagelayer.BuildResource` and its edge counterparts.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import MalformedPacket
from gateway.wire.cloudedge.names import NO_NAMESPACE

MAX_NAME = 512


@dataclass(frozen=True, slots=True)
class Subject:
    """What a resource message is about, e.g. `default/configmap/settings` or `null/node/edge-1`.

    Shape:  `namespace` is None for cluster-scoped objects; `type` is KubeEdge's token (`nodepatch`, `lease`,
            `podlist`, ...), not a Kubernetes plural; `name` is "" where the resource names none.
    """

    namespace: str | None
    type: str
    name: str = ""

    @classmethod
    def parse(cls, resource: str) -> Subject:
        """Read a resource of two or three parts. Errors: MalformedPacket."""
        parts = resource.split("/")
        if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
            raise MalformedPacket(
                f"resource: expected <ns>/<type>[/<name>], got {resource[:200]!r}"
            )
        if any(len(part) > MAX_NAME for part in parts):
            raise MalformedPacket(f"resource: a part is longer than {MAX_NAME} characters")
        namespace = None if parts[0] == NO_NAMESPACE else parts[0]
        return cls(namespace, parts[1], parts[2] if len(parts) == 3 else "")

    def __str__(self) -> str:
        head = f"{self.namespace or NO_NAMESPACE}/{self.type}"
        return f"{head}/{self.name}" if self.name else head


@dataclass(frozen=True, slots=True, order=True)
class DeviceKey:
    """A Device's namespace and name; `str()` is KubeEdge's device id `<ns>/<name>`."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> DeviceKey:
        """Read `<ns>/<name>`. Errors: MalformedPacket."""
        namespace, slash, name = text.partition("/")
        if not (namespace and slash and name) or "/" in name or len(text) > MAX_NAME:
            raise MalformedPacket(f"device id: expected <ns>/<name>, got {text[:200]!r}")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


TWIN_UPDATED = "twin/edge_updated"
TWIN_CLOUD_UPDATED = "twin/cloud_updated"
STATE_UPDATED = "state/update"
ATTRIBUTES_UPDATED = "updated"


def device_resource(device: DeviceKey, what: str) -> str:
    """Return `device/<ns>/<name>/<what>`."""
    return f"device/{device}/{what}"


def parse_device_resource(resource: str) -> tuple[DeviceKey, str]:
    """Read `device/<ns>/<name>/<what>` into the device and what. Errors: MalformedPacket."""
    parts = resource.split("/", 3)
    if len(parts) != 4 or parts[0] != "device" or not parts[3]:
        raise MalformedPacket(f"resource: expected device/<ns>/<name>/..., got {resource[:200]!r}")
    return DeviceKey.parse(f"{parts[1]}/{parts[2]}"), parts[3]
