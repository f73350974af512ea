"""A Node that runs nothing takes no Pods: the taint by which schedulers know. Pure.

CloudCore sets and removes it, whenever an edge registers or tells its status, by what the edge says of its
container runtime; so it is there from the Node's first moment on, in every cluster. Pods that tolerate it are
bound, kept at the edge, and stay Pending.
"""

from __future__ import annotations

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping, text

KEY = "twinspan.io/no-container-runtime"
NO_RUNTIME = "none:"
"""How the container runtime of a node without one begins (`none://`)."""


def runs_nothing(status: Json) -> bool | None:
    """True when a Node's status says that there is no container runtime; None when it does not say."""
    runtime = text(mapping(mapping(status).get("nodeInfo")).get("containerRuntimeVersion"))
    return runtime.startswith(NO_RUNTIME) if runtime else None


def taints_for(held: Json, status: Json) -> list[Json] | None:
    """Return the taints of a Node with this status; None when it has them."""
    known = list(held) if isinstance(held, list) else []
    others: list[Json] = [taint for taint in known if mapping(taint).get("key") != KEY]
    is_idle = runs_nothing(status)
    if is_idle is None or is_idle == (len(others) < len(known)):
        return None
    return [*others, _TAINT] if is_idle else others


_TAINT: JsonObject = {"key": KEY, "effect": "NoSchedule"}
