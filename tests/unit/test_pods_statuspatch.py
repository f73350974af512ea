"""Patches of Pods' statuses bring the API's Pod to what the node says, and leave the rest alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.statuspatch import own_part, patch_text, version_of
from gateway.kube.builtin import builtin_registry
from gateway.model.json import JsonObject
from gateway.wire.kube.strategic import apply_strategic

PODS = builtin_registry().find("v1", "pods")
assert PODS is not None
SCHEMA = PODS.schema
FOREIGN: JsonObject = {"type": "example.com/gate", "status": "True"}


def applied(pod: JsonObject, text: str) -> Any:
    return apply_strategic(SCHEMA, pod, json.loads(text)) if text else pod


def by_type(status: Any) -> dict[str, Any]:
    return {row["type"]: row for row in status.get("conditions", [])}


def ready(value: str) -> JsonObject:
    return {"type": "Ready", "status": value}


def test_the_first_patch_says_all_and_removes_what_is_no_longer_so() -> None:
    shown: JsonObject = {"phase": "Running", "reason": "NodeLost", "conditions": [FOREIGN]}
    status: JsonObject = {"phase": "Running", "conditions": [ready("True"), FOREIGN]}
    text = patch_text("u1", status, None, shown)
    assert json.loads(text)["metadata"] == {"uid": "u1"}
    after = applied({"status": shown}, text)["status"]
    assert "reason" not in after
    assert by_type(after) == {"Ready": ready("True"), "example.com/gate": FOREIGN}


def test_nothing_new_is_no_patch() -> None:
    status: JsonObject = {"phase": "Running", "conditions": [ready("True")]}
    assert patch_text("u1", status, dict(status), {}) == ""
    with_foreign: JsonObject = {**status, "conditions": [FOREIGN, ready("True")]}
    assert patch_text("u1", with_foreign, status, {}) == ""


def test_what_did_not_change_is_not_sent() -> None:
    old: JsonObject = {"phase": "Pending", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}]}
    text = patch_text("u1", {**old, "phase": "Running"}, old, {})
    assert json.loads(text)["status"] == {"phase": "Running"}


def test_an_address_that_went_is_taken_out() -> None:
    old: JsonObject = {"podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}]}
    new: JsonObject = {"podIP": "10.0.0.6", "podIPs": [{"ip": "10.0.0.6"}]}
    after = applied({"status": old}, patch_text("u1", new, old, {}))
    assert after["status"] == new
    gone = applied({"status": new}, patch_text("u1", {"phase": "Running"}, new, {}))
    assert gone["status"] == {"phase": "Running"}


@pytest.mark.parametrize(
    ("version", "number"), [("12", 12), ("", 0), ("x", 0), ("9" * 30, 0), ("²", 0)]
)
def test_a_version_that_is_no_number_counts_as_none(version: str, number: int) -> None:
    assert version_of({"metadata": {"resourceVersion": version}}) == number


ADDRESSES = st.lists(
    st.sampled_from(["10.0.0.5", "10.0.0.6", "fd00::5"]), min_size=1, max_size=2, unique=True
).map(lambda ips: [{"ip": ip} for ip in ips])
CONDITIONS = st.dictionaries(
    st.sampled_from(["Ready", "Initialized", "PodScheduled", "DisruptionTarget"]),
    st.sampled_from(["True", "False"]),
    min_size=1,
).map(lambda found: [{"type": kind, "status": value} for kind, value in found.items()])
ROWS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("ab"), "restartCount": st.integers(0, 2)}),
    min_size=1,
    max_size=2,
    unique_by=lambda row: str(row["name"]),
)
STATUSES = st.fixed_dictionaries(
    {"phase": st.sampled_from(["Pending", "Running", "Failed"])},
    optional={
        "reason": st.just("Evicted"),
        "podIPs": ADDRESSES,
        "conditions": CONDITIONS,
        "containerStatuses": ROWS,
    },
)


@given(old=STATUSES, new=STATUSES, knows=st.booleans())
def test_a_patch_leads_from_any_status_to_any_other(old: Any, new: Any, knows: bool) -> None:
    foreign = [*old.get("conditions", []), FOREIGN]
    held: JsonObject = {"status": {**old, "conditions": foreign}}
    text = patch_text("u1", new, old if knows else None, {**old, "conditions": foreign})
    after = applied(held, text)["status"]
    wanted = {**by_type(new), "example.com/gate": FOREIGN}
    assert by_type(after) == wanted
    rest = {key: value for key, value in own_part(after).items() if key != "conditions"}
    assert rest == {key: value for key, value in new.items() if key != "conditions"}


def test_a_condition_that_is_well_again_keeps_no_words_of_before() -> None:
    """Conditions merge field by field: what is left out of one would stay."""
    bad: JsonObject = {**ready("False"), "reason": "ContainersNotReady", "message": "not yet"}
    old: JsonObject = {"phase": "Pending", "conditions": [bad]}
    new: JsonObject = {"phase": "Running", "conditions": [ready("True")]}
    for accepted in (old, None):
        text = patch_text("u1", new, accepted, old)
        assert applied({"status": old}, text)["status"] == new
        assert json.loads(text)["status"]["conditions"] == [
            {"type": "Ready", "status": "True", "reason": None, "message": None}
        ]
