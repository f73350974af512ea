"""Names that a Pod has for itself: hostname and domain, and the /etc/hosts of its containers.

Source: Kubernetes "DNS for Services and Pods", "Adding entries to Pod /etc/hosts with HostAliases"; form and
texts as the kubelet of 1.36.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edge.pods.podspec import HostAlias, Pod
from gateway.errors import BadRequest
from gateway.wire.kube.names import label_fault, quoted, subdomain_fault

CONTAINER_PATH: Final = "/etc/hosts"
MAX_HOSTNAME: Final = 63
MAX_FQDN: Final = 64
_HEADER: Final = "# Kubernetes-managed hosts file.\n"
_HOST_HEADER: Final = "# Kubernetes-managed hosts file (host network).\n"
_LOCAL: Final = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "fe00::0\tip6-mcastprefix\n"
    "fe00::1\tip6-allnodes\n"
    "fe00::2\tip6-allrouters\n"
)


def names_of(pod: Pod, cluster_domain: str) -> tuple[str, str]:
    """Return a Pod's hostname and its domain, empty without a subdomain.

    Shape:  a hostname of more than 63 characters is cut.
    Errors: BadRequest for names that are none of DNS.
    """
    spec = pod.spec
    if spec.hostname_override:
        return _overridden(pod.meta.name, spec.hostname_override), ""
    for field, value in (("Hostname", spec.hostname), ("Subdomain", spec.subdomain)):
        fault = label_fault(value) if value else None
        if fault:
            raise BadRequest(f"pod {field} {quoted(value)} is not a valid DNS label: {fault}")
    hostname = _cut(pod.meta.name, spec.hostname or pod.meta.name)
    domain = f"{spec.subdomain}.{pod.meta.namespace}.svc.{cluster_domain}"
    return hostname, domain if spec.subdomain else ""


def _overridden(name: str, hostname: str) -> str:
    fault = subdomain_fault(hostname)
    if fault:
        text = f"pod HostnameOverride {quoted(hostname)} is not a valid DNS subdomain: {fault}"
        raise BadRequest(text)
    return _cut(name, hostname)


def _cut(name: str, hostname: str) -> str:
    if len(hostname) <= MAX_HOSTNAME:
        return hostname
    kept = hostname[:MAX_HOSTNAME].rstrip("-.")
    if not kept:
        raise BadRequest(f"hostname for pod {quoted(name)} was invalid: {quoted(hostname)}")
    return kept


def kernel_hostname(pod: Pod, cluster_domain: str) -> str:
    """Return what a sandbox's hostname is set to; empty with the node's network.

    Errors: BadRequest for names of no use, or a whole name of more than 64 characters.
    """
    if pod.spec.host_network:
        return ""
    hostname, domain = names_of(pod, cluster_domain)
    if not (domain and pod.spec.set_hostname_as_fqdn):
        return hostname
    whole = f"{hostname}.{domain}"
    if len(whole) > MAX_FQDN:
        raise BadRequest(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too long"
            f" ({MAX_FQDN} characters is the max, {len(whole)} characters requested)"
        )
    return whole


def managed(pod: Pod, addresses: Sequence[str], cluster_domain: str) -> str:
    """Return the /etc/hosts of a Pod with its own network. Errors: BadRequest."""
    hostname, domain = names_of(pod, cluster_domain)
    names = f"{hostname}.{domain}\t{hostname}" if domain else hostname
    own = "".join(f"{address}\t{names}\n" for address in addresses)
    return _HEADER + _LOCAL + own + _aliases(pod.spec.host_aliases)


def of_node(content: str, pod: Pod) -> str:
    """Return the /etc/hosts of a Pod with the node's network: the node's, and the Pod's aliases."""
    return _HOST_HEADER + content + _aliases(pod.spec.host_aliases)


def _aliases(aliases: Sequence[HostAlias]) -> str:
    if not aliases:
        return ""
    lines = "".join(f"{each.ip}\t" + "\t".join(each.hostnames) + "\n" for each in aliases)
    return "\n# Entries added by HostAliases.\n" + lines


def write(path: Path, content: str) -> None:
    """Write a Pod's file in place: running containers see it under the name they have it mounted by."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    data = content.encode(errors="replace")
    if not _holds(path, data):
        path.write_bytes(data)
        os.chmod(path, 0o644)


def _holds(path: Path, data: bytes) -> bool:
    """Compare; a file of another size is not read: its containers may have made it as long as they like."""
    try:
        with path.open("rb") as file:
            is_long = os.fstat(file.fileno()).st_size == len(data)
            return is_long and file.read(len(data) + 1) == data
    except FileNotFoundError:
        return False
