"""The API server's own Service: `kubernetes` in namespace `default`, and where it leads.

Programs in Pods find the API by it. A server that only this machine reaches leads nowhere, and says so by
having no endpoints.
"""

from __future__ import annotations

import ipaddress

from gateway.errors import Conflict
from gateway.kube.admission import WriteOptions
from gateway.kube.client import PatchType
from gateway.kube.objects import Objects
from gateway.kube.watch import Key
from gateway.model.json import Json, JsonObject

NAME, NAMESPACE = "kubernetes", "default"
PORT = 443
WRITER = WriteOptions(manager="kube-apiserver", validation="Ignore", force=True)


async def publish(objects: Objects, ip: str, address: str) -> None:
    """Make or mend Service and endpoints.

    Shape:  `ip` is the Service's, `address` host:port of the listener.
    """
    host, _, port = address.rpartition(":")
    labels: JsonObject = {"component": "apiserver", "provider": "kubernetes"}
    service: JsonObject = {
        "metadata": {"labels": labels},
        "spec": {
            "clusterIP": ip,
            "ports": [{"name": "https", "port": PORT, "targetPort": int(port), "protocol": "TCP"}],
        },
    }
    await _ensure(objects, "v1", "services", service)
    reached = [host] if _is_for_others(host) else []
    ports: list[Json] = [{"name": "https", "port": int(port), "protocol": "TCP"}]
    ips: list[Json] = [{"ip": each} for each in reached]
    endpoints: JsonObject = {
        "metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": ips, "ports": ports}] if reached else [],
    }
    await _ensure(objects, "v1", "endpoints", endpoints)
    addresses: list[Json] = [*reached]
    slice_: JsonObject = {
        "metadata": {"labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv6" if ":" in host else "IPv4",
        "endpoints": [{"addresses": addresses, "conditions": {"ready": True}}] if reached else [],
        "ports": ports,
    }
    await _ensure(objects, "discovery.k8s.io/v1", "endpointslices", slice_)


async def _ensure(objects: Objects, group_version: str, plural: str, body: JsonObject) -> None:
    resource = objects.resource(group_version, plural)
    metadata = body["metadata"] if isinstance(body["metadata"], dict) else {}
    wanted: JsonObject = {**body, "metadata": {**metadata, "name": NAME}}
    if objects.storage.get(Key(resource.storage_key, NAMESPACE, NAME)) is None:
        await objects.create(resource, NAMESPACE, wanted, WRITER)
        return
    if isinstance(
        spec := wanted.get("spec"), dict
    ):  # an address stays, also one of another network
        wanted["spec"] = {key: value for key, value in spec.items() if key != "clusterIP"}
    try:
        await objects.patch(resource, NAMESPACE, NAME, wanted, PatchType.MERGE, WRITER)
    except Conflict:
        return  # it is being deleted: the next start makes it anew


def _is_for_others(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)
