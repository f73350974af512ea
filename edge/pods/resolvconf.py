"""How containers of a Pod resolve names: the node's resolv.conf, the cluster's DNS, what the Pod adds.

Source: Kubernetes "DNS for Services and Pods"; resolv.conf(5); limits and texts as the kubelet of 1.36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edge.pods.podspec import DnsConfig, DnsOption, Pod
from edge.pods.runtime import Dns

NODE_FILE: Final = Path("/etc/resolv.conf")
RESOLVED_FILE: Final = Path("/run/systemd/resolve/resolv.conf")
"""What systemd-resolved forwards to: its stub on loopback is of no use within a Pod."""
MAX_FILE: Final = 10 << 20
MAX_SERVERS, MAX_SEARCHES, MAX_SEARCH_CHARACTERS, MAX_SEARCH = 3, 32, 2_048, 253
CLUSTER_OPTIONS: Final = ("ndots:5",)
MISSING_DNS: Final = "MissingClusterDNS"
CLUSTER_FIRST, WITH_HOST_NETWORK, NONE = "ClusterFirst", "ClusterFirstWithHostNet", "None"

Tell = Callable[[str, str], None]
"""Told reason and message of a Warning about the Pod."""


# --- the node's file ------------------------------------------------------------------------------


def read_conf(content: str) -> Dns:
    """Read a resolv.conf: servers add up, the last `search` stands, options by name."""
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    for line in content.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        keyword, values = words[0], words[1:]
        if keyword == "nameserver":
            servers += values[:1]
        elif keyword == "search":
            searches = [each.removesuffix(".") for each in values if each != "."]
        elif keyword == "options":
            options |= {each.partition(":")[0]: each for each in values}
    return Dns(servers=tuple(servers), searches=tuple(searches), options=tuple(options.values()))


def node_file(paths: Sequence[Path] = (NODE_FILE, RESOLVED_FILE)) -> Path:
    """Return the file that Pods are given: systemd-resolved's where the node's names its stub alone."""
    first, behind = paths
    try:
        servers = read_conf(first.read_text(errors="replace")).servers
    except OSError:
        return first
    is_stub = bool(servers) and all(each in ("127.0.0.53", "127.0.0.54") for each in servers)
    return behind if is_stub and behind.exists() else first


def node_dns(path: Path) -> Dns:
    """Read the node's file. Errors: OSError."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return read_conf(file.read(MAX_FILE))


# --- a Pod's --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The cluster's DNS as Pods are told it; without servers there is none."""

    servers: tuple[str, ...] = ()
    domain: str = ""


def pod_dns(pod: Pod, node: Dns, cluster: Cluster, tell: Tell, tell_node: Tell) -> Dns:
    """Return how a Pod resolves names; `tell` and `tell_node` hear of what was left out."""
    found = _by_policy(pod, node, cluster, tell, tell_node)
    if pod.spec.dns_config is not None:
        found = _with(found, pod.spec.dns_config)
    return _fitting(found, tell)


def _by_policy(pod: Pod, node: Dns, cluster: Cluster, tell: Tell, tell_node: Tell) -> Dns:
    policy = pod.spec.dns_policy
    if policy == NONE:
        return Dns()
    is_cluster = policy == WITH_HOST_NETWORK or (
        policy == CLUSTER_FIRST and not pod.spec.host_network
    )
    if not is_cluster:
        return node
    if cluster.servers:
        searches = _cluster_searches(pod, node.searches, cluster.domain)
        return Dns(servers=cluster.servers, searches=searches, options=CLUSTER_OPTIONS)
    text = (
        'kubelet does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst"'
        ' policy. Falling back to "Default" policy.'
    )
    tell_node(MISSING_DNS, text)
    named = f"{pod.meta.name}_{pod.meta.namespace}({pod.uid})"
    tell(MISSING_DNS, f'pod: "{named}". {text}')
    return node


def _cluster_searches(pod: Pod, of_node: Sequence[str], domain: str) -> tuple[str, ...]:
    if not domain:
        return tuple(of_node)
    own = (f"{pod.meta.namespace}.svc.{domain}", f"svc.{domain}", domain)
    return _once((*own, *of_node))


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _with(found: Dns, more: DnsConfig) -> Dns:
    return Dns(
        servers=_once((*found.servers, *more.nameservers)),
        searches=_once((*found.searches, *more.searches)),
        options=_merged(found.options, more.options),
    )


def _merged(options: Sequence[str], more: Sequence[DnsOption]) -> tuple[str, ...]:
    """Options of the Pod go before those of the same name."""
    table = {name: value for name, _, value in (each.partition(":") for each in options)}
    table |= {each.name: each.value or "" for each in more}
    return tuple(f"{name}:{value}" if value else name for name, value in table.items())


# --- limits ---------------------------------------------------------------------------------------


def _fitting(found: Dns, tell: Tell) -> Dns:
    servers = found.servers[:MAX_SERVERS]
    if servers != found.servers:
        text = (
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied"
            f" nameserver line is: {' '.join(servers)}"
        )
        tell("DNSConfigForming", text)
    searches = _fitting_searches(found.searches)
    if searches != found.searches:
        text = (
            "Search Line limits were exceeded, some search paths have been omitted, the applied"
            f" search line is: {' '.join(searches)}"
        )
        tell("DNSConfigForming", text)
    return replace(found, servers=servers, searches=searches)


def _fitting_searches(searches: tuple[str, ...]) -> tuple[str, ...]:
    kept = [each for each in searches[:MAX_SEARCHES] if len(each) <= MAX_SEARCH]
    while len(" ".join(kept)) > MAX_SEARCH_CHARACTERS:
        kept.pop()
    return tuple(kept)
