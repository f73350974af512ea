"""The samples of `--demo` at the local edge: a thermostat and a lamp, virtual, and a workload.

What is there already stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from gateway.errors import Conflict
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject

API = "devices.kubeedge.io/v1beta1"
APPS = "apps/v1"
WORKLOAD = "heartbeat"
NAMESPACE = "default"
REPORT_MS = 2_000

FLOAT: JsonObject = {"type": "FLOAT", "accessMode": "ReadWrite", "minimum": "5", "maximum": "30"}
READING: JsonObject = {"type": "FLOAT", "accessMode": "ReadOnly", "unit": "degree celsius"}
SWITCH: JsonObject = {"type": "BOOLEAN", "accessMode": "ReadWrite"}
PERCENT: JsonObject = {"type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100"}

Properties = Mapping[str, JsonObject]
MODELS: Mapping[str, Properties] = {
    "thermostat": {"temperature": READING, "target": {**FLOAT, "unit": "degree celsius"}},
    "lamp": {"on": SWITCH, "brightness": {**PERCENT, "unit": "percent"}},
}
DESIRED: Mapping[str, Mapping[str, str]] = {
    "thermostat": {"target": "21"},
    "lamp": {"on": "false", "brightness": "80"},
}


def model(kind: str) -> JsonObject:
    """The DeviceModel of one kind of sample device."""
    properties: list[Json] = [{"name": n, **rule} for n, rule in MODELS[kind].items()]
    return _object(
        "DeviceModel", f"{kind}-model", {"protocol": "virtual", "properties": properties}
    )


def device(kind: str, node: str) -> JsonObject:
    """The Device of one kind, bound to `node`."""
    properties: list[Json] = [_property(kind, name) for name in MODELS[kind]]
    return _object(
        "Device",
        kind,
        {
            "deviceModelRef": {"name": f"{kind}-model"},
            "nodeName": node,
            "protocol": {"protocolName": "virtual", "configData": {"kind": kind}},
            "properties": properties,
        },
    )


def _property(kind: str, name: str) -> JsonObject:
    found: JsonObject = {
        "name": name,
        "reportToCloud": True,
        "reportCycle": REPORT_MS,
        "collectCycle": REPORT_MS,
        "visitors": {"protocolName": "virtual"},
    }
    desired = DESIRED[kind].get(name)
    if desired is not None:
        found["desired"] = {"value": desired}
    return found


def _object(kind: str, name: str, spec: JsonObject) -> JsonObject:
    metadata: JsonObject = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}


async def provision(kube: KubeClient, node: str) -> None:
    """Make the sample devices that are not there yet, bound to `node`."""
    for kind in MODELS:
        await _create(kube, "devicemodels", model(kind))
        await _create(kube, "devices", device(kind, node))


async def provision_workload(kube: KubeClient, image: str) -> None:
    """Make the sample Deployment where it is not there yet: one container that says hello."""
    labels: JsonObject = {"app": WORKLOAD}
    container: JsonObject = {"name": WORKLOAD, "image": image, "imagePullPolicy": "IfNotPresent"}
    container["resources"] = {"requests": {"cpu": "1m", "memory": "4Mi"}}
    metadata: JsonObject = {"name": WORKLOAD, "namespace": NAMESPACE, "labels": labels}
    spec: JsonObject = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    body: JsonObject = {
        "apiVersion": APPS,
        "kind": "Deployment",
        "metadata": metadata,
        "spec": spec,
    }
    await _create(kube, "deployments", body, APPS)


async def _create(kube: KubeClient, plural: str, body: JsonObject, api: str = API) -> None:
    with suppress(Conflict):
        await kube.create(api, plural, NAMESPACE, body)
