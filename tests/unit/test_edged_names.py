"""How Pods are named and resolve names: hostnames, /etc/hosts, resolv.conf."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from edge.pods.hostsfile import kernel_hostname, managed, names_of, of_node, write
from edge.pods.podspec import Pod, read_pod
from edge.pods.resolvconf import Cluster, node_file, pod_dns, read_conf
from edge.pods.runtime import Dns
from gateway.errors import BadRequest
from gateway.model.json import Json

NODE = Dns(servers=("192.0.2.53",), searches=("home.example",), options=("rotate",))
CLUSTER = Cluster(servers=("169.254.20.10",), domain="cluster.local")


def pod_of(name: str = "web", /, **spec: Json) -> Pod:
    return read_pod({"metadata": {"name": name, "namespace": "shop", "uid": "u"}, "spec": {**spec}})


# --- hostnames ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "names"),
    [
        (pod_of(), ("web", "")),
        (pod_of(hostname="own"), ("own", "")),
        (pod_of(subdomain="sub"), ("web", "sub.shop.svc.cluster.local")),
        (pod_of(hostnameOverride="all.of.it", subdomain="sub"), ("all.of.it", "")),
        (pod_of("a" * 70), ("a" * 63, "")),
        (pod_of("a" * 62 + ".b-c"), ("a" * 62, "")),
    ],
)
def test_a_pod_has_a_hostname_and_with_a_subdomain_a_domain(
    pod: Pod, names: tuple[str, str]
) -> None:
    assert names_of(pod, "cluster.local") == names


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"hostname": "No_Name"}, 'pod Hostname "No_Name" is not a valid DNS label'),
        ({"hostnameOverride": "A."}, 'pod HostnameOverride "A." is not a valid DNS subdomain'),
        ({"subdomain": "a.b"}, 'pod Subdomain "a.b" is not a valid DNS label'),
    ],
)
def test_a_name_that_is_none_is_refused(spec: dict[str, Json], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        names_of(pod_of(**spec), "cluster.local")


@pytest.mark.parametrize(
    ("pod", "hostname"),
    [
        (pod_of(), "web"),
        (pod_of(hostNetwork=True), ""),
        (pod_of(subdomain="sub"), "web"),
        (pod_of(subdomain="sub", setHostnameAsFQDN=True), "web.sub.shop.svc.cluster.local"),
        (pod_of(setHostnameAsFQDN=True), "web"),
    ],
)
def test_the_kernel_knows_the_whole_name_where_it_is_asked_for(pod: Pod, hostname: str) -> None:
    assert kernel_hostname(pod, "cluster.local") == hostname


def test_a_whole_name_that_is_too_long_for_the_kernel_is_refused() -> None:
    pod = pod_of("a" * 40, subdomain="sub", setHostnameAsFQDN=True)
    with pytest.raises(BadRequest) as refused:
        kernel_hostname(pod, "cluster.local")
    assert refused.value.message.endswith("(64 characters is the max, 67 characters requested)")


# --- hosts ----------------------------------------------------------------------------------------


def test_a_pod_has_a_file_of_hosts_with_its_names_and_aliases() -> None:
    aliases: list[Json] = [{"ip": "192.0.2.1", "hostnames": ["a", "b"]}, {"ip": "192.0.2.2"}]
    pod = pod_of(subdomain="sub", hostAliases=aliases)
    lines = managed(pod, ["10.1.0.2", "fd00::2"], "cluster.local").splitlines()
    assert lines[0] == "# Kubernetes-managed hosts file."
    assert lines[1] == "127.0.0.1\tlocalhost"
    assert lines[7:] == [
        "10.1.0.2\tweb.sub.shop.svc.cluster.local\tweb",
        "fd00::2\tweb.sub.shop.svc.cluster.local\tweb",
        "",
        "# Entries added by HostAliases.",
        "192.0.2.1\ta\tb",
        "192.0.2.2\t",
    ]
    assert managed(pod_of(), ["10.1.0.2"], "x").splitlines()[-1] == "10.1.0.2\tweb"


def test_with_the_nodes_network_the_nodes_file_is_taken() -> None:
    pod = pod_of(hostAliases=[{"ip": "192.0.2.1", "hostnames": ["a"]}])
    content = of_node("127.0.0.1 node\n", pod)
    assert content.startswith("# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n\n")
    assert content.endswith("192.0.2.1\ta\n")


def test_a_file_is_written_in_place_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "pod" / "etc-hosts"
    write(path, "one\n")
    inode = path.stat().st_ino
    write(path, "two\n")
    assert path.read_text() == "two\n"
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o644)


# --- the node's resolv.conf -----------------------------------------------------------------------


def test_a_resolv_conf_is_read() -> None:
    content = """\
# nameserver 192.0.2.9
; another comment
nameserver 192.0.2.1 # behind
nameserver
\tnameserver fd00::1
search one.example
search two.example. . three.example
options ndots:2 rotate
options ndots:3
"""
    assert read_conf(content) == Dns(
        servers=("192.0.2.1", "fd00::1"),
        searches=("two.example", "three.example"),
        options=("ndots:3", "rotate"),
    )


@pytest.mark.parametrize(
    ("content", "is_behind"),
    [
        ("nameserver 127.0.0.53\noptions edns0\n", True),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", False),
        ("nameserver 127.0.0.1\n", False),
        ("", False),
    ],
)
def test_behind_the_stub_of_systemd_resolved_is_the_real_file(
    tmp_path: Path, content: str, *, is_behind: bool
) -> None:
    first, behind = tmp_path / "resolv.conf", tmp_path / "real"
    first.write_text(content)
    assert node_file((first, behind)) == first
    behind.write_text("nameserver 192.0.2.1\n")
    assert node_file((first, behind)) == (behind if is_behind else first)


def test_a_node_without_a_file_is_read_as_one(tmp_path: Path) -> None:
    assert node_file((tmp_path / "none", tmp_path / "none either")) == tmp_path / "none"


# --- a Pod's resolvers ----------------------------------------------------------------------------


class Ears:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def __call__(self, reason: str, message: str) -> None:
        self.heard.append((reason, message))


def dns_of(pod: Pod, node: Dns = NODE, cluster: Cluster = CLUSTER) -> tuple[Dns, Ears, Ears]:
    ears, node_ears = Ears(), Ears()
    return pod_dns(pod, node, cluster, ears, node_ears), ears, node_ears


IN_CLUSTER = Dns(
    servers=("169.254.20.10",),
    searches=("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "home.example"),
    options=("ndots:5",),
)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, IN_CLUSTER),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, NODE),
        ({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, IN_CLUSTER),
        ({"dnsPolicy": "ClusterFirstWithHostNet"}, IN_CLUSTER),
        ({"dnsPolicy": "Default"}, NODE),
        ({"dnsPolicy": "None"}, Dns()),
    ],
)
def test_a_policy_says_who_is_asked(spec: dict[str, Json], expected: Dns) -> None:
    found, ears, node_ears = dns_of(pod_of(**spec))
    assert found == expected
    assert not ears.heard
    assert not node_ears.heard


def test_what_a_pod_adds_comes_behind_and_its_options_stand() -> None:
    config: Json = {
        "nameservers": ["192.0.2.7", "169.254.20.10"],
        "searches": ["home.example", "pod.example"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    }
    found, _, _ = dns_of(pod_of(dnsConfig=config))
    assert found.servers == ("169.254.20.10", "192.0.2.7")
    assert found.searches == (*IN_CLUSTER.searches, "pod.example")
    assert found.options == ("ndots:2", "edns0")


def test_without_a_cluster_dns_the_nodes_is_taken_and_told_of() -> None:
    found, ears, node_ears = dns_of(pod_of(), cluster=Cluster(domain="cluster.local"))
    assert found == NODE
    assert [reason for reason, _ in node_ears.heard] == ["MissingClusterDNS"]
    assert ears.heard[0][1].startswith('pod: "web_shop(u)". kubelet does not have ClusterDNS IP')


def test_a_cluster_without_a_domain_adds_no_searches() -> None:
    found, _, _ = dns_of(pod_of(), cluster=Cluster(servers=("169.254.20.10",)))
    assert found.searches == NODE.searches


def test_of_too_many_servers_three_stay_and_it_is_told() -> None:
    config: Json = {"nameservers": [f"192.0.2.{number}" for number in range(5)]}
    found, ears, _ = dns_of(pod_of(dnsPolicy="None", dnsConfig=config))
    assert found.servers == ("192.0.2.0", "192.0.2.1", "192.0.2.2")
    assert ears.heard == [
        (
            "DNSConfigForming",
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver"
            " line is: 192.0.2.0 192.0.2.1 192.0.2.2",
        )
    ]


@pytest.mark.parametrize(
    ("searches", "kept"),
    [
        ([f"s{number}" for number in range(33)], 32),
        (["a" * 254, "b"], 1),
        (["a" * 250 + str(number) for number in range(9)], 8),
        (["a" * 250 + str(number) for number in range(8)], 8),
    ],
)
def test_of_too_many_searches_the_last_go_and_it_is_told(searches: list[str], kept: int) -> None:
    config: Json = {"searches": [*searches]}
    found, ears, _ = dns_of(pod_of(dnsPolicy="None", dnsConfig=config))
    assert len(found.searches) == kept
    assert [reason for reason, _ in ears.heard] == (
        ["DNSConfigForming"] if kept < len(searches) else []
    )


def test_a_file_of_hosts_that_a_container_made_endless_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "etc-hosts"
    write(path, "one\n")
    os.truncate(path, 1 << 34)
    tracemalloc.start()
    try:
        write(path, "two\n")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert path.read_text() == "two\n"
    assert path.stat().st_mode & 0o777 == 0o644
