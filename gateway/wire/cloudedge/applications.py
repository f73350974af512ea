"""Applications: how an edge's MetaServer asks the Kubernetes API through the cloud, and how watches are kept.

An Application is one request and, sent back, its answer. All its twelve keys are always on the wire; bodies
are base64 text, a missing one is `null`; no error is `{"ErrStatus":{"metadata":{}}}`. Neither requests nor
answers are acknowledged. Source: KubeEdge `metaserver/application.go` and its dynamic controller.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from msgspec import Meta, Raw, Struct

from gateway.errors import MalformedPacket
from gateway.model.json import Json, JsonObject
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.envelope import Envelope, Route, Stamp, answer_to, make, struct_of
from gateway.wire.cloudedge.names import NO_NAMESPACE, Group, Operation, Source

APPLICATION = "ignore/Application/ignore"
"""Resource of the answer to an Application."""
WATCHES = "watchapp/sync"
"""Resource of the list of an edge's watches, and of the answer to it."""
NO_RESOURCE = "null"
CORE = "core"
"""Stands for the empty API group."""
ZERO_TIME = "0001-01-01T00:00:00Z"
NO_OPTION = "e30="
"""`{}` in base64."""
MAX_WATCHES = 1_000
"""Watches of one node."""
MAX_KEY = 2_048
_RAW = frozenset({"api", "apis", "openapi", "version", "healthz", "livez", "readyz"})
"""First parts of paths that are passed through; no API group is called so."""
MAX_BODY = 8 * 1024 * 1024
_API_WORD = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
"""Groups, versions and resources: what else stands there (`v1%2Fsecrets?`) would lead to other objects."""


class Verb(StrEnum):
    """What an Application wants; pass-through is a `get` with a raw path as its key."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    CREATE = "create"
    UPDATE = "update"
    UPDATE_STATUS = "updatestatus"
    PATCH = "patch"
    DELETE = "delete"


class Status(StrEnum):
    """Where an Application stands; answers are Approved or Rejected."""

    PRE_APPLYING = "PreApplying"
    IN_APPLYING = "InApplying"
    IN_PROCESSING = "InProcessing"
    APPROVED = "Approved"
    REJECTED = "Rejected"
    FAILED = "Failed"
    COMPLETED = "Completed"


class ApplicationError(Struct, frozen=True, rename={"status": "ErrStatus"}):
    """A Kubernetes Status; `{"metadata": {}}` says that there is none."""

    status: dict[str, Any] = msgspec.field(default_factory=lambda: {"metadata": {}})

    @property
    def is_set(self) -> bool:
        return bool(self.status.get("status") or self.status.get("code"))


NO_ERROR = ApplicationError()

_Word = Annotated[str, Meta(max_length=256)]
_Key = Annotated[str, Meta(max_length=MAX_KEY)]
_Base64 = Annotated[str, Meta(max_length=MAX_BODY)]


class Application(
    Struct,
    frozen=True,
    kw_only=True,
    rename={
        "id": "ID",
        "key": "Key",
        "verb": "Verb",
        "node": "Nodename",
        "option": "Option",
        "request": "ReqBody",
        "subresource": "Subresource",
        "response": "RespBody",
        "status": "Status",
        "reason": "Reason",
        "error": "Error",
        "timestamp": "Timestamp",
    },
):
    """One request of an edge, and its answer.

    Shape:  `id` sha256 hex of the request; `key` see `ApiKey`; `option`, `request` and `response` base64
            text, None for `null`; `status` a `Status`; `timestamp` RFC 3339.
    """

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    key: _Key
    verb: _Word
    node: _Word
    option: _Base64 | None = None
    request: _Base64 | None = None
    subresource: _Word = ""
    response: _Base64 | None = None
    status: _Word = Status.IN_APPLYING
    reason: Annotated[str, Meta(max_length=10_000)] = ""
    error: ApplicationError = NO_ERROR
    timestamp: _Word = ZERO_TIME

    @property
    def is_approved(self) -> bool:
        return self.status == Status.APPROVED

    def option_json(self) -> JsonObject:
        """Return the options, `{}` where there are none. Errors: MalformedPacket."""
        return _object("Option", _bytes("Option", self.option) or b"{}")

    def request_bytes(self) -> bytes:
        """Return the request's body, b"" where there is none. Errors: MalformedPacket."""
        return _bytes("ReqBody", self.request)

    def response_bytes(self) -> bytes:
        """Return the answer's body, b"" where there is none. Errors: MalformedPacket."""
        return _bytes("RespBody", self.response)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What an Application is about: `/core/v1/pods/default/p1`, or a raw path such as `/version`.

    Shape:  `group` is "" for the core group; `namespace` None for cluster-scoped and all namespaces; `name`
            None for lists and creations; `raw` the path of a pass-through (then the rest is empty), else "".
    """

    group: str = ""
    version: str = ""
    resource: str = ""
    namespace: str | None = None
    name: str | None = None
    raw: str = ""

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """Read a key. Errors: MalformedPacket for what is no path, or leads elsewhere."""
        if not text.startswith("/") or len(text) > MAX_KEY:
            raise MalformedPacket(f"Key: expected a path, got {text[:200]!r}")
        parts = text[1:].split("/")
        if any(unquote(part) in (".", "..") or not part.isprintable() for part in parts):
            raise MalformedPacket(f"Key: a path that leads elsewhere: {text[:200]!r}")
        if len(parts) != 5 or not all(parts) or parts[0] in _RAW:
            return cls(raw=text)
        group, version, resource, namespace, name = parts
        if not all(map(_API_WORD.fullmatch, (group, version, resource))):
            raise MalformedPacket(f"Key: no group, version and resource: {text[:200]!r}")
        return cls(
            "" if group == CORE else group,
            version,
            resource,
            _unless_null(namespace),
            _unless_null(name),
        )

    @property
    def group_version(self) -> str:
        """`v1`, `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        if self.raw:
            return self.raw
        parts = (
            self.group or CORE,
            self.version,
            self.resource,
            self.namespace or NO_NAMESPACE,
            self.name or NO_NAMESPACE,
        )
        return "/" + "/".join(parts)


def _unless_null(part: str) -> str | None:
    return None if part == NO_NAMESPACE else part


def make_application(
    node: str,
    key: ApiKey,
    verb: str,
    *,
    option: Json = None,
    body: bytes | None = None,
    subresource: str = "",
) -> Application:
    """Build a request; the same request has the same id, so that it is asked once.

    Shape:  `option` None for no options (`null` on the wire), else a JSON object.
    """
    options = None if option is None else base64.b64encode(msgspec.json.encode(option)).decode()
    request = None if body is None else base64.b64encode(body).decode()
    return Application(
        id=_id(node, str(key), verb, options, request, subresource),
        key=str(key),
        verb=verb,
        node=node,
        option=options,
        request=request,
        subresource=subresource,
    )


def _id(node: str, key: str, verb: str, option: str | None, body: str | None, sub: str) -> str:
    said = (node, key, verb, _decoded(option), _decoded(body), sub)
    digest = hashlib.sha256()
    for part in said:
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.hexdigest()


def _decoded(text: str | None) -> bytes:
    return base64.b64decode(text) if text else b""


def approved(app: Application, body: bytes) -> Application:
    """Return the Application as the cloud answers it: `body` is the result, b"" for none."""
    response = base64.b64encode(body).decode() if body else None
    return _answered(app, Status.APPROVED, response=response)


def rejected(app: Application, status: JsonObject) -> Application:
    """Return the Application as the cloud refuses it, with the Kubernetes Status of the failure."""
    error = ApplicationError({"metadata": {}, **status})
    message = status.get("message")
    return _answered(
        app,
        Status.REJECTED,
        error=error,
        reason=message[:1_000] if isinstance(message, str) else "",
    )


def _answered(
    app: Application,
    status: Status,
    *,
    response: str | None = None,
    reason: str = "",
    error: ApplicationError = NO_ERROR,
) -> Application:
    return msgspec.structs.replace(
        app, status=status, response=response, reason=reason, error=error
    )


# --- messages --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ApplicationAsked:
    """An edge's MetaServer asks for something."""

    application: Application


@dataclass(frozen=True, slots=True)
class WatchesSynced:
    """The watches that an edge has, by Application id: the cloud's other ones for it end."""

    live: Mapping[str, Application]


@dataclass(frozen=True, slots=True)
class WatchesAnswered:
    """Those of the watches told that the cloud could not keep, by Application id."""

    failed: Mapping[str, Application]


_APPLICATION = msgspec.json.Decoder(Application)
_APPLICATIONS = msgspec.json.Decoder(
    Annotated[dict[str, Application], Meta(max_length=MAX_WATCHES)]
)


def ask_application(
    stamp: Stamp, app: Application, *, trace: TraceContext | None = None
) -> Envelope:
    """Build the request (edge); answered within 10 s or never."""
    return make(stamp, _asking(NO_RESOURCE), app, trace=trace)


def sync_watches(stamp: Stamp, live: Mapping[str, Application]) -> Envelope:
    """Build the list of live watches (edge): after connecting, and now and then."""
    return make(stamp, _asking(WATCHES), msgspec.to_builtins(dict(live)))


def _asking(resource: str) -> Route:
    return Route(
        source=Source.META_SERVER,
        group=Group.DYNAMIC_CONTROLLER,
        operation=Operation.NULL,
        resource=resource,
    )


def read_application(envelope: Envelope) -> ApplicationAsked | WatchesSynced:
    """Read what an edge's MetaServer sends (cloud). Errors: MalformedPacket."""
    if envelope.route.resource == WATCHES:
        return WatchesSynced(struct_of(envelope.content, _APPLICATIONS))
    return ApplicationAsked(struct_of(envelope.content, _APPLICATION))


def answer_application(asked: Envelope, stamp: Stamp, app: Application) -> Envelope:
    """Build the answer (cloud): the same Application, `approved` or `rejected`."""
    return answer_to(asked, stamp, _answering(APPLICATION), app)


def answer_watches(asked: Envelope, stamp: Stamp, failed: Mapping[str, Application]) -> Envelope:
    """Build the answer to a list of watches (cloud): those that could not be kept."""
    return answer_to(asked, stamp, _answering(WATCHES), msgspec.to_builtins(dict(failed)))


def _answering(resource: str) -> Route:
    return Route(
        source=Source.DYNAMIC_CONTROLLER,
        group=Group.RESOURCE,
        operation=Operation.APPLICATION_RESPONSE,
        resource=resource,
    )


def read_application_answer(content: Raw) -> Application:
    """Read the answer to an Application (edge). Errors: MalformedPacket."""
    return struct_of(content, _APPLICATION)


def read_watches_answer(content: Raw) -> Mapping[str, Application]:
    """Read which watches the cloud could not keep (edge). Errors: MalformedPacket."""
    return struct_of(content, _APPLICATIONS)


def _bytes(what: str, text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError as error:  # also of text that is no ASCII
        raise MalformedPacket(f"{what}: not base64: {error}") from error


def _object(what: str, data: bytes) -> JsonObject:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedPacket(f"{what}: {error}") from error
    if not isinstance(value, dict):
        raise MalformedPacket(f"{what}: expected a JSON object, got {type(value).__name__}")
    return value
