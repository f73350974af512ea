"""What a node knows of Services, and the names that they have."""

from __future__ import annotations

from ipaddress import ip_address

import dns.message
import pytest

from edge.network.dnsanswers import Elsewhere, Zone
from edge.network.dnsmessages import Reply, read_query, write_reply
from edge.network.picking import Picker, Target
from edge.network.servicetable import ServiceTable, usable
from gateway.model.json import JsonObject
from tests.service_samples import NODE, a_pod, a_service, a_slice, an_endpoint

WEB = ("shop", "web")


def a_table(*services: JsonObject) -> ServiceTable:
    table = ServiceTable(NODE)
    table.replace_services(services or [a_service()])
    return table


def addresses(table: ServiceTable) -> list[str]:
    service = table.find(*WEB)
    assert service is not None
    return [e.address for e in usable(service, table.endpoints(WEB), NODE)]


def test_this_node_s_pods_count_as_they_are_here_and_others_as_the_cloud_says() -> None:
    table = a_table(a_service(selector={"app": "web"}))
    table.put_slice(a_slice(an_endpoint("10.88.0.4"), an_endpoint("10.88.9.9", node="far")))
    assert addresses(table) == ["10.88.0.4", "10.88.9.9"]
    table.set_pods({"u": a_pod(ip="10.88.0.5")})
    assert addresses(table) == ["10.88.0.5", "10.88.9.9"]
    table.set_pods({"u": a_pod(ip="10.88.0.6")})
    assert addresses(table) == ["10.88.0.6", "10.88.9.9"]
    table.set_pods({"u": a_pod(ip="10.88.0.6", ready=False)})
    assert addresses(table) == ["10.88.9.9"]


def test_a_service_without_selector_keeps_what_others_say_of_this_node() -> None:
    table = a_table()
    table.put_slice(a_slice(an_endpoint("10.88.0.4")))
    table.set_pods({})
    assert addresses(table) == ["10.88.0.4"]


def test_those_that_end_serve_where_nobody_is_ready() -> None:
    table = a_table()
    ending = an_endpoint("10.88.0.4")
    ending["conditions"] = {"ready": False, "serving": True, "terminating": True}
    table.put_slice(a_slice(ending))
    assert addresses(table) == ["10.88.0.4"]
    table.put_slice(a_slice(an_endpoint("10.88.0.5"), number=2))
    assert addresses(table) == ["10.88.0.5"]


def test_what_is_no_address_is_passed_over() -> None:
    table = a_table(a_service(ip="10.96.0.300"))
    table.put_slice(a_slice(an_endpoint("example.org"), an_endpoint("10.88.0.4")))
    assert addresses(table) == ["10.88.0.4"]
    service = table.find(*WEB)
    assert service is not None
    assert service.addresses == ()


def test_who_listens_is_told_what_changed_and_no_more() -> None:
    table, told = a_table(a_service(), a_service("db", ip="10.96.0.21")), list[set[object]]()
    table.listen(lambda keys: told.append(set(keys)))
    table.put_slice(a_slice(an_endpoint("10.88.0.4")))
    table.put_slice(a_slice(an_endpoint("10.88.0.4")))
    table.replace_services([a_service()])
    assert told == [{WEB}, {("shop", "db")}]


def test_a_named_target_port_is_the_pod_s() -> None:
    ports: list[JsonObject] = [{"name": "http", "port": 80, "targetPort": "web"}]
    table = a_table(a_service(ports=ports, selector={"app": "web"}))
    table.set_pods({"u": a_pod()})
    assert table.endpoints(WEB)[0].ports == {("http", "TCP"): 8080}


# --- turns ------------------------------------------------------------------------------------------


def test_this_node_s_own_come_first_and_take_turns() -> None:
    picker = Picker()
    picker.set([Target(("a", 1), True), Target(("b", 1), True), Target(("c", 1), False)], 0)
    orders = [picker.order("x", 0.0) for _ in range(4)]
    assert {order[0] for order in orders} == {("a", 1), ("b", 1)}
    assert all(order[2] == ("c", 1) for order in orders)


def test_a_client_stays_where_it_was_until_the_time_is_up_or_it_is_gone() -> None:
    picker = Picker()
    both = [Target(("a", 1), True), Target(("b", 1), True)]
    picker.set(both, 10)
    first = picker.order("x", 0.0)[0]
    picker.served("x", first, 0.0)
    assert {picker.order("x", 5.0)[0] for _ in range(4)} == {first}
    assert len({picker.order("x", 11.0)[0] for _ in range(4)}) == 2
    picker.set([t for t in both if t.address != first], 10)
    assert picker.order("x", 5.0)[0] != first


# --- names ------------------------------------------------------------------------------------------


def a_zone() -> Zone:
    table = a_table(
        a_service(selector={"app": "web"}),
        a_service("db", ip="None", selector={"app": "db"}),
        a_service("far", type="ExternalName", externalName="example.org", ip=""),
        a_service("all", ip="None", selector={"app": "db"}, publishNotReadyAddresses=True),
    )
    table.set_pods(
        {
            "1": a_pod(),
            "2": a_pod(
                "db-0", ip="10.88.0.7", labels={"app": "db"}, hostname="db-0", subdomain="db"
            ),
            "3": a_pod("db-1", ip="10.88.0.8", labels={"app": "db"}),
            "4": a_pod("db-2", ip="10.88.0.9", labels={"app": "db"}, ready=False),
        }
    )
    return Zone("cluster.local", table, NODE)


def asked(name: str, kind: str = "A") -> tuple[str, list[str]]:
    """Return code and records, as another library reads them."""
    query = read_query(dns.message.make_query(name, kind).to_wire())
    reply = a_zone().answer(query)
    assert isinstance(reply, Reply)
    found = dns.message.from_wire(write_reply(query, reply))
    code = dns.rcode.to_text(found.rcode())
    records = sorted(str(each) for rrset in found.answer for each in rrset)
    if not records and code != "SERVFAIL":
        assert found.authority[0].ttl == 5
    return code, records


SHOP = "shop.svc.cluster.local."


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (f"web.{SHOP}", "A", ("NOERROR", ["10.96.0.20"])),
        (f"WEB.{SHOP}", "A", ("NOERROR", ["10.96.0.20"])),
        (f"web.{SHOP}", "AAAA", ("NOERROR", [])),
        (f"db.{SHOP}", "A", ("NOERROR", ["10.88.0.7", "10.88.0.8"])),
        (f"all.{SHOP}", "A", ("NOERROR", ["10.88.0.7", "10.88.0.8", "10.88.0.9"])),
        (f"db-0.db.{SHOP}", "A", ("NOERROR", ["10.88.0.7"])),
        (f"10-88-0-8.db.{SHOP}", "A", ("NOERROR", ["10.88.0.8"])),
        (f"db-0.web.{SHOP}", "A", ("NXDOMAIN", [])),
        (f"nobody.{SHOP}", "A", ("NXDOMAIN", [])),
        (SHOP, "A", ("NOERROR", [])),
        ("lab.svc.cluster.local.", "A", ("NXDOMAIN", [])),
        ("cluster.local.", "A", ("NOERROR", [])),
        ("else.cluster.local.", "A", ("NXDOMAIN", [])),
        ("10-88-0-5.shop.pod.cluster.local.", "A", ("NOERROR", ["10.88.0.5"])),
        ("10-88-0-555.shop.pod.cluster.local.", "A", ("NXDOMAIN", [])),
        (f"_http._tcp.web.{SHOP}", "SRV", ("NOERROR", [f"0 100 80 web.{SHOP}"])),
        (
            f"_http._tcp.db.{SHOP}",
            "SRV",
            ("NOERROR", [f"0 50 8080 10-88-0-8.db.{SHOP}", f"0 50 8080 db-0.db.{SHOP}"]),
        ),
        (f"_tcp.web.{SHOP}", "SRV", ("NOERROR", [])),
        (f"_no._tcp.web.{SHOP}", "SRV", ("NXDOMAIN", [])),
        (f"_http._udp.web.{SHOP}", "SRV", ("NXDOMAIN", [])),
        ("20.0.96.10.in-addr.arpa.", "PTR", ("NOERROR", [f"web.{SHOP}"])),
        ("7.0.88.10.in-addr.arpa.", "PTR", ("NOERROR", [f"db-0.db.{SHOP}"])),
        (
            "5.0.88.10.in-addr.arpa.",
            "PTR",
            ("NOERROR", ["10-88-0-5.shop.pod.cluster.local."]),
        ),
        ("dns-version.cluster.local.", "TXT", ("NOERROR", ['"1.1.0"'])),
    ],
)
def test_the_cluster_s_names(name: str, kind: str, expected: tuple[str, list[str]]) -> None:
    code, records = asked(name, kind)
    if name.startswith("7.0.88"):
        records = [each for each in records if ".db." in each]
    assert (code, records) == expected


def test_a_name_of_others_is_told_and_followed_elsewhere() -> None:
    query = read_query(dns.message.make_query(f"far.{SHOP}", "A").to_wire())
    found = a_zone().answer(query)
    assert isinstance(found, Elsewhere)
    assert found.target == "example.org"


@pytest.mark.parametrize("name", ["example.org.", "1.2.0.192.in-addr.arpa.", "xcluster.local."])
def test_other_names_are_left_to_others(name: str) -> None:
    kind = "PTR" if name.endswith("arpa.") else "A"
    query = read_query(dns.message.make_query(name, kind).to_wire())
    assert a_zone().answer(query) is None


def test_nobody_says_that_nothing_is_there_before_anything_is_known() -> None:
    query = read_query(dns.message.make_query(f"web.{SHOP}", "A").to_wire())
    reply = Zone("cluster.local", ServiceTable(NODE), NODE).answer(query)
    assert isinstance(reply, Reply)
    assert reply.code == 2


def test_ip6_addresses_are_read_backwards() -> None:
    name = ip_address("fd00::5").reverse_pointer
    query = read_query(dns.message.make_query(name, "PTR").to_wire())
    assert a_zone().answer(query) is None
