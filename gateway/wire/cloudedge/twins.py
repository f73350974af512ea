"""The JSON documents about device twins, as they stand in envelopes and on the edge's MQTT topics.

One `Twin` per property. KubeEdge says `expected` for what we call the desired value, `actual` for the
reported one; those words end here. Decode with `struct_of(content, TWIN_UPDATE)` or
`read(payload, TWIN_UPDATE)`, encode with `write`.
Source: KubeEdge `dttype`; topics and rules in its DeviceTwin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.errors import MalformedPacket, TooLarge
from gateway.wire.cloudedge.envelope import struct_of

MAX_DOCUMENT = 1024 * 1024
"""Bytes of one twin document on MQTT."""

DELETED = "deleted"
"""The `metadata.type` of a property that was deleted at the edge."""

STATES = frozenset({"online", "offline", "ok", "unknown", "unhealthy"})
"""Device states that count; others are ignored without an answer."""

_Value = Annotated[str, Meta(max_length=65_536)]
_Name = Annotated[str, Meta(min_length=1, max_length=512)]
_Text = Annotated[str, Meta(max_length=1_024)]
_Millis = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

T = TypeVar("T")


class ValueMetadata(Struct, frozen=True, omit_defaults=True):
    """When a value was set, Unix milliseconds; 0 for unknown.

    Shape:  `quality` is ours: how far a reported value can be trusted, "" for good.
    """

    timestamp: _Millis = 0
    quality: _Text = ""


class TwinValue(Struct, frozen=True, omit_defaults=True):
    """One side of a twin: text, and when it was set. `value` None: cleared."""

    value: _Value | None = None
    metadata: ValueMetadata | None = None

    @property
    def timestamp(self) -> int:
        return self.metadata.timestamp if self.metadata else 0

    @property
    def quality(self) -> str:
        return self.metadata.quality if self.metadata else ""


class TwinVersion(Struct, frozen=True):
    """How often the cloud and the edge have set a side; both keys are always written."""

    cloud: _Millis = 0
    edge: _Millis = 0


class Twin(Struct, frozen=True, omit_defaults=True):
    """One property of a device.

    Shape:  `metadata` is open; its key `type` is `string`, `int`/`integer`, `float`, `boolean` or `deleted`.
    """

    expected: TwinValue | None = None
    actual: TwinValue | None = None
    optional: bool | None = None
    metadata: dict[_Text, _Text] | None = None
    expected_version: TwinVersion | None = None
    actual_version: TwinVersion | None = None

    @property
    def type(self) -> str:
        return (self.metadata or {}).get("type", "")


Twins = dict[_Name, Twin | None]
"""Property name -> twin; `None` asks for (or reports) its deletion."""


class Question(Struct, frozen=True):
    """`N/membership/get` and `D/twin/get`: nothing but who asks."""

    event_id: _Text = ""
    timestamp: _Millis = 0


class TwinUpdate(Struct, frozen=True):
    """`D/twin/update`, `/update/result`, `/get/result`; content of `edge_updated` and `cloud_updated`."""

    event_id: _Text = ""
    timestamp: _Millis = 0
    twin: Twins | None = None


class TwinChange(Struct, frozen=True):
    """Before and after of one property; both keys are always written."""

    last: Twin | None = None
    current: Twin | None = None


class TwinDocument(Struct, frozen=True):
    """`D/twin/update/document`: what changed."""

    event_id: str = ""
    timestamp: int = 0
    twin: dict[str, TwinChange] = {}


class TwinDelta(Struct, frozen=True):
    """`D/twin/update/delta`: property -> wanted value, where wanted and reported differ."""

    event_id: str = ""
    timestamp: int = 0
    twin: dict[str, Twin | None] = {}
    delta: dict[str, str] = {}


class TwinError(Struct, frozen=True):
    """An answer on a `.../result` topic; `code` 400, 404, 409 or 500."""

    event_id: str
    timestamp: int
    code: int
    reason: str


class MemberDevice(Struct, frozen=True, omit_defaults=True):
    """One device of a node. `id` is `<ns>/<name>`."""

    id: _Name
    name: _Text = ""
    description: _Text = ""
    state: _Text = ""
    last_online: _Text = ""
    attributes: dict[str, Raw] | None = None


class AttributesUpdate(Struct, frozen=True):
    """What older clouds say of a device: message `device/<id>/updated`, MQTT `D/updated`; `null` ends one."""

    event_id: _Text = ""
    timestamp: _Millis = 0
    attributes: dict[str, Raw] = {}


class MembershipUpdate(Struct, frozen=True):
    """Devices that came and went: cloud message `membership`, MQTT `N/membership/updated`."""

    event_id: _Text = ""
    timestamp: _Millis = 0
    added_devices: list[MemberDevice] | None = None
    removed_devices: list[MemberDevice] | None = None


class MembershipList(Struct, frozen=True):
    """All devices of a node: answer to `membership/detail`, MQTT `N/membership/get/result`."""

    event_id: _Text = ""
    timestamp: _Millis = 0
    devices: list[MemberDevice] | None = None


class MembershipQuestion(Struct, frozen=True):
    """Content of `membership/detail` (a JSON string on the wire)."""

    event_id: _Text = ""
    timestamp: _Millis = 0
    event_type: _Text = "group_membership_event"
    group_id: _Text = ""
    operation: _Text = "detail"


class DeviceState(Struct, frozen=True, rename={"last_online_time": "lastOnlineTime"}):
    """The device inside a state message to the cloud.

    Shape:  `faults` is our extension: part of the Device -> what is wrong with it; all of them, or none said.
    """

    name: _Text = ""
    state: _Text = ""
    last_online_time: _Text | UnsetType = UNSET
    faults: dict[_Text, _Text] | UnsetType = UNSET


class StateUpdate(Struct, frozen=True):
    """Content of `device/<ns>/<name>/state/update` towards the cloud (a JSON string on the wire)."""

    event_id: _Text = ""
    timestamp: _Millis = 0
    device: DeviceState = DeviceState()


class LocalState(Struct, frozen=True):
    """`D/state/update` on MQTT."""

    event_id: _Text = ""
    timestamp: _Millis = 0
    state: _Text = ""


class LocalStateDevice(Struct, frozen=True, omit_defaults=True):
    """The device inside `D/state/update/result`."""

    name: str = ""
    state: str = ""
    last_online: str = ""


class LocalStateResult(Struct, frozen=True):
    """`D/state/update/result` on MQTT."""

    event_id: str = ""
    timestamp: int = 0
    device: LocalStateDevice = LocalStateDevice()


QUESTION = msgspec.json.Decoder(Question)
TWIN_UPDATE = msgspec.json.Decoder(TwinUpdate)
TWINS = msgspec.json.Decoder(Twins)
ATTRIBUTES_UPDATE = msgspec.json.Decoder(AttributesUpdate)
MEMBERSHIP_UPDATE = msgspec.json.Decoder(MembershipUpdate)
MEMBERSHIP_LIST = msgspec.json.Decoder(MembershipList)
MEMBERSHIP_QUESTION = msgspec.json.Decoder(MembershipQuestion)
STATE_UPDATE = msgspec.json.Decoder(StateUpdate)
LOCAL_STATE = msgspec.json.Decoder(LocalState)

_encoder = msgspec.json.Encoder()


def read(payload: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Parse an MQTT payload. Errors: TooLarge; MalformedPacket, naming the field at fault."""
    if len(payload) > MAX_DOCUMENT:
        raise TooLarge(f"twin document: at most {MAX_DOCUMENT} bytes, got {len(payload)}")
    if payload.lstrip()[:1] == b'"':
        raise MalformedPacket("twin document: expected a JSON object, got text")
    return struct_of(Raw(payload), decoder)


def write(document: Struct | Mapping[str, object]) -> bytes:
    """Write a document as JSON."""
    return _encoder.encode(document)
