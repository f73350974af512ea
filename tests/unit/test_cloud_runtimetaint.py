"""Which Nodes are marked as running nothing."""

from __future__ import annotations

import pytest

from cloud.runtimetaint import KEY, taints_for
from gateway.model.json import Json, JsonObject

OTHER: JsonObject = {"key": "a", "value": "b", "effect": "NoExecute"}
IDLE: JsonObject = {"key": KEY, "effect": "NoSchedule"}


def a_status(runtime: str) -> JsonObject:
    return {"nodeInfo": {"containerRuntimeVersion": runtime}}


@pytest.mark.parametrize(
    ("held", "runtime", "wanted"),
    [
        (None, "none://", [IDLE]),
        ([OTHER], "none://", [OTHER, IDLE]),
        ([OTHER, IDLE], "none://", None),
        ([IDLE, OTHER], "containerd://1.7.2", [OTHER]),
        ([IDLE], "containerd://1.7.2", []),
        ([OTHER], "containerd://1.7.2", None),
        ([IDLE], "", None),
        ([OTHER], "", None),
    ],
)
def test_a_node_without_a_container_runtime_is_marked_until_it_has_one(
    held: Json, runtime: str, wanted: list[JsonObject] | None
) -> None:
    assert taints_for(held, a_status(runtime)) == wanted
