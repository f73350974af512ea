"""Where a Service leads: Endpoints and slices from Pods, and which slice holds what."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.json import JsonObject
from gateway.wire.kube.endpoints import (
    MAX_PER_SLICE,
    Group,
    endpoints_of,
    groups_of,
    is_mirrored,
    key_of_endpoint,
    mirrored_groups,
    plan,
    target_port,
)

WEB: JsonObject = {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}


def a_pod(name: str, ip: str, *, ready: bool = True, **more: Any) -> JsonObject:
    metadata: JsonObject = {"name": name, "namespace": "n", "uid": f"u-{name}"}
    metadata["labels"] = {"app": "x"}
    if more.pop("deleting", False):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    condition: JsonObject = {"type": "Ready", "status": "True" if ready else "False"}
    status: JsonObject = {
        "phase": more.pop("phase", "Running"),
        "podIP": ip,
        "conditions": [condition],
    }
    port: JsonObject = {"name": "web", "containerPort": more.pop("number", 8080)}
    spec: JsonObject = {"nodeName": "node", "containers": [{"ports": [port]}], **more}
    return {"metadata": metadata, "spec": spec, "status": status}


def a_service(**spec: Any) -> JsonObject:
    full = {"selector": {"app": "x"}, "ports": [WEB], "clusterIP": "10.96.0.9", **spec}
    return {
        "metadata": {"name": "svc", "namespace": "n", "uid": "s"},
        "spec": cast("JsonObject", full),
    }


def test_pods_that_serve_come_before_those_that_do_not_yet() -> None:
    pods = [a_pod("b", "10.1.0.4", ready=False), a_pod("a", "10.1.0.5")]
    (subset,), is_cut = endpoints_of(a_service(), pods)
    assert not is_cut
    ref = {"kind": "Pod", "namespace": "n", "name": "a", "uid": "u-a"}
    assert subset["addresses"] == [{"ip": "10.1.0.5", "targetRef": ref, "nodeName": "node"}]
    assert [row["ip"] for row in cast(Any, subset["notReadyAddresses"])] == ["10.1.0.4"]
    assert subset["ports"] == [{"port": 8080, "protocol": "TCP", "name": "http"}]


def test_ended_and_leaving_pods_and_those_without_the_port_are_left_out() -> None:
    pods = [
        a_pod("a", "10.1.0.1", phase="Succeeded"),
        a_pod("b", "10.1.0.2", deleting=True),
        a_pod("c", ""),
        a_pod("d", "10.1.0.4", containers=[{}]),
    ]
    assert endpoints_of(a_service(), pods) == ([], False)
    published = a_service(publishNotReadyAddresses=True)
    (subset,), _ = endpoints_of(published, pods)
    assert [row["ip"] for row in cast(Any, subset["addresses"])] == ["10.1.0.2"]


def test_no_more_than_a_thousand_addresses() -> None:
    pods = [a_pod(f"p{n}", f"10.1.{n // 250}.{n % 250 + 1}") for n in range(1_001)]
    (subset,), is_cut = endpoints_of(a_service(), pods)
    assert is_cut
    assert len(cast(Any, subset["addresses"])) == 1_000


def test_a_leaving_pod_still_serves_in_a_slice_and_says_so() -> None:
    (group,) = groups_of(a_service(), [a_pod("a", "10.1.0.5", deleting=True)], {"node": "z1"})
    endpoint = group.endpoints["u-a"]
    assert endpoint["conditions"] == {"ready": False, "serving": True, "terminating": True}
    assert endpoint["zone"] == "z1"
    assert group.ports == ({"port": 8080, "protocol": "TCP", "name": "http"},)


def test_pods_with_other_numbers_for_a_name_are_a_group_of_their_own() -> None:
    pods = [a_pod("a", "10.1.0.5"), a_pod("b", "10.1.0.6", number=9090)]
    groups = groups_of(a_service(), pods, {})
    assert [group.ports[0]["port"] for group in groups] == [8080, 9090]
    assert target_port(pods[0], {"port": 5}) == 5


def test_a_host_name_needs_the_subdomain_of_the_service() -> None:
    named = a_pod("a", "10.1.0.5", hostname="h", subdomain="svc")
    (group,) = groups_of(a_service(), [named, a_pod("b", "10.1.0.6", hostname="h")], {})
    assert group.endpoints["u-a"]["hostname"] == "h"
    assert "hostname" not in group.endpoints["u-b"]


def test_endpoints_of_people_are_mirrored() -> None:
    endpoints: JsonObject = {
        "metadata": {"name": "m"},
        "subsets": [
            {
                "addresses": [{"ip": "192.0.2.4"}, {"ip": "2001:db8::1", "hostname": "zz"}],
                "notReadyAddresses": [{"ip": "192.0.2.6"}],
                "ports": [{"port": 80}],
            }
        ],
    }
    assert is_mirrored(endpoints)
    groups = {group.family: group for group in mirrored_groups(endpoints)}
    assert groups["IPv4"].endpoints["192.0.2.6"]["conditions"] == {"ready": False}
    assert groups["IPv6"].endpoints["2001:db8::1"]["hostname"] == "zz"
    assert groups["IPv4"].ports == ({"name": "", "protocol": "TCP", "port": 80},)
    skipped = {"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}
    assert not is_mirrored(cast(JsonObject, skipped))


def a_slice(name: str, ids: list[int], ports: tuple[JsonObject, ...]) -> JsonObject:
    return {
        "metadata": {"name": name},
        "addressType": "IPv4",
        "endpoints": [an_endpoint(n) for n in ids],
        "ports": [*ports],
    }


def an_endpoint(n: int) -> JsonObject:
    return {"addresses": [f"10.0.{n // 250}.{n % 250}"], "targetRef": {"uid": str(n)}}


PORTS: tuple[JsonObject, ...] = ({"name": "", "port": 80, "protocol": "TCP"},)
OTHER: tuple[JsonObject, ...] = ({"name": "", "port": 81, "protocol": "TCP"},)


@given(
    held=st.lists(st.lists(st.integers(0, 300), max_size=MAX_PER_SLICE, unique=True), max_size=4),
    wanted=st.sets(st.integers(0, 300)),
    others=st.sets(st.integers(301, 330)),
)
def test_slices_hold_each_endpoint_once_and_it_stays_where_it_is(
    held: list[list[int]], wanted: set[int], others: set[int]
) -> None:
    seen: set[int] = set()
    slices = []
    for at, ids in enumerate(held):
        slices.append(a_slice(f"s{at}", [n for n in ids if n not in seen], PORTS))
        seen |= set(ids)
    groups = [Group("IPv4", PORTS, {str(n): an_endpoint(n) for n in wanted})]
    if others:
        groups.append(Group("IPv4", OTHER, {str(n): an_endpoint(n) for n in others}))
    found = plan(groups, slices)
    contents = [(rows, ports) for _, rows, ports in (*found.change, *found.make)]
    assert all(len(rows) <= MAX_PER_SLICE for rows, _ in contents)
    first = sorted(
        key_of_endpoint(row) for rows, ports in contents if ports == PORTS for row in rows
    )
    second = sorted(
        key_of_endpoint(row) for rows, ports in contents if ports == OTHER for row in rows
    )
    assert first == sorted(map(str, wanted))
    assert second == sorted(map(str, others))
    for old, rows, _ in found.change:
        before = {key_of_endpoint(row) for row in cast(Any, old["endpoints"])}
        assert before & set(map(str, wanted)) <= {key_of_endpoint(row) for row in rows}
    assert len(contents) >= 1
    assert not any(not rows for rows, _ in contents) or not wanted
    names = [cast(Any, old)["metadata"]["name"] for old, _, _ in found.change]
    names += [cast(Any, old)["metadata"]["name"] for old in found.delete]
    assert sorted(names) == [f"s{at}" for at in range(len(slices))]
