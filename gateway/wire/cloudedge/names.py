"""Words of the link: headers, module names, operations, node identity.

Source: KubeEdge `beehive` constants, `common/constants`, certificate and session code.
"""

from __future__ import annotations

import re
from enum import StrEnum

from gateway.errors import BadRequest

# --- the WebSocket upgrade -------------------------------------------------------------------

NODE_ID = "node_id"
PROJECT_ID = "project_id"
CONNECTION_USE = "ConnectionUse"
USE_MESSAGES = "msg"
DEFAULT_PROJECT = "e632aba927ea4ac2b575ec1603d56f10"
SPOOL = "twinspan-spool"
"""Header of the upgrade's answer: `1` says that uploads with a spool id are acknowledged."""
EDGE = "twinspan-edge"
"""Header of the upgrade request: the uuid of the edge's store. Twin versions count from one in each store,
so the cloud compares them only with others of the same store.
"""
HUB = "twinspan-hub"
"""Header of the answer to `/ca.crt`: where CloudHub's WebSocket is, `HOST:PORT` or `:PORT` on the host asked.
Not trusted for more than an address: the link itself is mutual TLS.
"""
REFUSAL = "twinspan-refusal"
"""Header of a refused upgrade or certificate request: a `Refusal`, for people and for back-off."""


def events_path(project: str, node: str) -> str:
    """Return the path of the hub's URL; servers ignore it."""
    return f"/{project}/{node}/events"


class Refusal(StrEnum):
    """Why CloudHub does not let a node in; stands in the header `twinspan-refusal` of the 4xx answer."""

    NO_CERTIFICATE = "no-certificate"
    NODE_MISMATCH = "node-mismatch"
    REVOKED = "revoked"
    NODE_LIMIT = "node-limit"
    BAD_NODE_NAME = "bad-node-name"
    BAD_TOKEN = "bad-token"  # noqa: S105  a word, not a secret
    TOKEN_EXPIRED = "token-expired"  # noqa: S105
    TOKEN_FOR_OTHER_NODE = "token-for-other-node"  # noqa: S105
    NODE_EXISTS = "node-exists"
    TOO_OFTEN = "too-often"


# --- node identity ---------------------------------------------------------------------------

MAX_NODE_NAME = 52
"""A certificate's common name holds 64 characters, `system:node:` takes twelve."""
EDGE_LABEL = "node-role.kubernetes.io/edge"
"""Label by which a cluster tells edge nodes from its own."""
STILL_SHOWN = "twinspan.io/still-shown"
"""Annotation of a deletion: the node is done with the object, but a watch of its MetaServer shows it."""
ORGANISATION = "system:nodes"
_PREFIX = "system:node:"
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def check_node_name(name: str) -> str:
    """Return `name` if a node may be called so. Errors: BadRequest."""
    if len(name) > MAX_NODE_NAME:
        raise BadRequest(f"node name: at most {MAX_NODE_NAME} characters, got {len(name)}")
    if not _NODE_NAME.fullmatch(name):
        raise BadRequest(
            f"node name: expected lower-case letters, digits, '-' and '.', got {name!r}"
        )
    return name


def common_name(node: str) -> str:
    """Return the certificate subject's CN for a node."""
    return _PREFIX + node


def node_of(common: str) -> str | None:
    """Return the node that a certificate's CN names, None when it is not a node's."""
    return common.removeprefix(_PREFIX) if common.startswith(_PREFIX) else None


# --- routes ------------------------------------------------------------------------------------


class Operation(StrEnum):
    """Verbs of `route.operation`."""

    INSERT = "insert"
    DELETE = "delete"
    QUERY = "query"
    UPDATE = "update"
    PATCH = "patch"
    RESPONSE = "response"
    ERROR = "error"
    UPLOAD = "upload"
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    KEEPALIVE = "keepalive"
    GET = "get"
    START = "start"
    STOP = "stop"
    APPLICATION_RESPONSE = "applicationResponse"
    PREPULL = "prepull"
    UPGRADE = "upgrade"
    ROLLBACK = "rollback"
    BACKUP = "backup"
    NODE_ACTION = "UpdateNodeActionStatus"
    NULL = "null"
    CONFIG = "config"
    PING = "ping"
    PONG = "pong"


HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Operations of requests to ServiceBus; its other operations are `start` and `stop`."""


class Source(StrEnum):
    """Module names of `route.source`."""

    EDGE_HUB = "websocket"
    EDGED = "edged"
    META_MANAGER = "metaManager"
    META_SERVER = "metaserver"
    TWIN = "twin"
    BUS = "bus"
    SERVICE_BUS = "servicebus"
    META = "meta"
    CLOUD_HUB = "cloudhub"
    CLOUD_STREAM = "cloudStream"
    EDGE_CONTROLLER = "edgecontroller"
    DEVICE_CONTROLLER = "devicecontroller"
    SYNC_CONTROLLER = "synccontroller"
    DYNAMIC_CONTROLLER = "dynamiccontroller"
    POLICY_CONTROLLER = "policycontroller"
    ROUTER_EVENT_BUS = "router_eventbus"
    ROUTER_SERVICE_BUS = "router_servicebus"
    TASK_MANAGER = "taskmanager"
    DISCOVERY = "discovery"
    """Ours: what mappers of a node see."""
    TRACES = "traces"
    """Ours: finished spans of a node."""


class Group(StrEnum):
    """Receiver groups of `route.group`."""

    RESOURCE = "resource"
    META = "meta"
    TWIN = "twin"
    USER = "user"
    HUB = "hub"
    FUNC = "func"
    BUS = "bus"
    EDGED = "edged"
    META_SERVER = "metaserver"
    TASK_MANAGER = "taskmanager"
    DYNAMIC_CONTROLLER = "dynamiccontroller"


NO_NAMESPACE = "null"
"""Stands for the namespace of cluster-scoped objects."""
CA_RESOURCE = "k8s/ca.crt"
