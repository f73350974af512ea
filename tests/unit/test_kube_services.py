"""Services: addresses and ports that are given out, what a change of type takes, what is refused."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, InvalidSetting, Undeliverable
from gateway.kube.serviceaddresses import ServiceAddresses, read_network, read_ports
from gateway.model.json import JsonObject
from gateway.wire.kube.servicefaults import service_faults, service_name_fault
from gateway.wire.kube.services import prepare_service

PORT: JsonObject = {"port": 80}


def a_service(**spec: Any) -> JsonObject:
    item: JsonObject = {"metadata": {"name": "s"}, "spec": {"ports": [PORT], **spec}}
    prepare_service(item, None)
    return item


def addresses(network: str = "10.96.0.0/16", ports: str = "30000-32767") -> ServiceAddresses:
    return ServiceAddresses(network, ports)


def spec(item: JsonObject) -> dict[str, Any]:
    return cast("dict[str, Any]", item["spec"])


def change(given: ServiceAddresses, old: JsonObject, **wanted: Any) -> JsonObject:
    item: JsonObject = {**old, "spec": {**spec(old), **wanted}}
    prepare_service(item, old)
    assert not service_faults(item, old)
    return given.allot(item, old)


def faults(item: JsonObject, old: JsonObject | None = None) -> list[tuple[str, str]]:
    return [(cause.field, cause.message) for cause in service_faults(item, old)]


def test_a_service_is_completed_as_the_api_server_completes_it() -> None:
    stored = addresses().allot(a_service(selector={"a": "b"}), None)
    ip = spec(stored)["clusterIP"]
    assert spec(stored) == {
        "clusterIP": ip,
        "clusterIPs": [ip],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "selector": {"a": "b"},
        "sessionAffinity": "None",
        "type": "ClusterIP",
    }
    assert stored["status"] == {"loadBalancer": {}}
    assert ip.startswith("10.96.")


def test_headless_and_external_services_have_no_address() -> None:
    pool = addresses()
    assert (
        spec(pool.allot(a_service(clusterIP="None"), None))["ipFamilyPolicy"] == "RequireDualStack"
    )
    named = a_service(type="ExternalName", externalName="example.org")
    assert "clusterIP" not in spec(pool.allot(named, None))


def test_one_number_serves_a_port_of_two_protocols() -> None:
    ports = [{"port": 53, "name": "t"}, {"port": 53, "name": "u", "protocol": "UDP"}]
    stored = addresses().allot(a_service(type="NodePort", ports=ports), None)
    first, second = (port["nodePort"] for port in spec(stored)["ports"])
    assert first == second
    assert 30000 <= first <= 32767


def test_a_change_of_type_takes_what_the_new_one_has_not() -> None:
    pool = addresses()
    plain = pool.allot(a_service(), None)
    open_ = change(pool, plain, type="NodePort")
    assert spec(open_)["externalTrafficPolicy"] == "Cluster"
    assert spec(open_)["ports"][0]["nodePort"]
    assert spec(open_)["clusterIP"] == spec(plain)["clusterIP"]
    assert spec(change(pool, open_, type="ClusterIP")) == spec(plain)
    named = change(pool, plain, type="ExternalName", externalName="x.org")
    assert set(spec(named)) == {"externalName", "ports", "sessionAffinity", "type"}


def test_an_update_without_the_address_keeps_it() -> None:
    pool = addresses()
    before = pool.allot(a_service(type="NodePort"), None)
    item: JsonObject = {
        "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "ports": [PORT, {"port": 81, "name": "x"}]},
    }
    prepare_service(item, before)
    assert spec(item)["clusterIP"] == spec(before)["clusterIP"]
    assert spec(item)["ports"][0]["nodePort"] == spec(before)["ports"][0]["nodePort"]


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({"clusterIP": "1.2.3.4"}, "the provided network does not match the current range"),
        ({"clusterIP": "10.96.255.255"}, "the provided network does not match the current range"),
        (
            {"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]},
            "provided port is not in the",
        ),
        ({"ipFamilies": ["IPv6"]}, "not configured on this cluster"),
        ({"ipFamilyPolicy": "RequireDualStack"}, "this cluster is not configured for dual-stack"),
    ],
)
def test_what_cannot_be_had_is_said(wanted: dict[str, Any], fault: str) -> None:
    with pytest.raises(GatewayError, match=re.escape(fault)):
        addresses().allot(a_service(**wanted), None)


def test_two_writers_at_once_never_get_the_same() -> None:
    pool = addresses()
    pool.allot(a_service(clusterIP="10.96.0.55", type="NodePort"), None)
    with pytest.raises(
        GatewayError, match=r"failed to allocate IP 10\.96\.0\.55: provided IP is already"
    ):
        pool.allot(a_service(clusterIP="10.96.0.55"), None)


@given(st.integers(1, 6))
def test_each_address_is_given_once_until_none_is_left(count: int) -> None:
    pool = addresses("10.0.0.0/29", "30000-30009")
    got = [spec(pool.allot(a_service(), None))["clusterIP"] for _ in range(count)]
    assert len(set(got)) == count
    if count == 6:
        with pytest.raises(Undeliverable, match=r"range .* is full"):
            pool.allot(a_service(), None)


def test_a_choice_that_was_never_stored_is_free_again_after_a_while() -> None:
    clock = [0.0]
    pool = ServiceAddresses("10.0.0.0/29", "30000-30009", now=lambda: clock[0])
    for _ in range(6):
        pool.allot(a_service(), None)
    clock[0] = 31.0
    assert spec(pool.allot(a_service(), None))["clusterIP"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"ports": []}, [("spec.ports", "Required value")]),
        ({"type": "ExternalName"}, [("spec.externalName", "Required value")]),
        (
            {"ports": [{"port": 80, "nodePort": 30056}]},
            [("spec.ports[0].nodePort", "Forbidden: may not be used when `type` is 'ClusterIP'")],
        ),
        (
            {"externalIPs": ["127.0.0.1"]},
            [
                (
                    "spec.externalIPs[0]",
                    'Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)',
                )
            ],
        ),
        (
            {"ports": [PORT, {"port": 81}]},
            [("spec.ports[0].name", "Required value"), ("spec.ports[1].name", "Required value")],
        ),
        (
            {"clusterIPs": ["10.96.0.90", "10.96.0.91"]},
            [
                (
                    "spec.clusterIPs",
                    'Invalid value: ["10.96.0.90","10.96.0.91"]: may specify no more than one IP for'
                    " each IP family",
                )
            ],
        ),
        (
            {"loadBalancerClass": "a/b"},
            [
                (
                    "spec.loadBalancerClass",
                    "Forbidden: may only be used when `type` is 'LoadBalancer'",
                )
            ],
        ),
    ],
)
def test_faults_are_named_as_the_api_server_names_them(
    wanted: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert faults(a_service(**wanted)) == expected


def test_an_address_stays() -> None:
    pool = addresses()
    before = pool.allot(a_service(), None)
    item: JsonObject = {**before, "spec": {**spec(before), "clusterIP": "10.96.0.77"}}
    prepare_service(item, before)
    assert faults(item, before) == [
        ("spec.clusterIPs[0]", 'Invalid value: ["10.96.0.77"]: may not change once set')
    ]


def test_names_and_settings() -> None:
    assert service_name_fault("a.b") == "must not contain dots"
    assert service_name_fault("1a") is None
    assert read_ports("1-5") == range(1, 6)
    for wrong in ("5-1", "x", "1-70000"):
        with pytest.raises(InvalidSetting, match=r"kube\.node_ports"):
            read_ports(wrong)
    for wrong in ("10.0.0.0/31", "10.0.0.1/24", "x"):
        with pytest.raises(InvalidSetting, match=r"kube\.service_network"):
            read_network(wrong)
