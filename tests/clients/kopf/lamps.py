"""A small operator: keeps a ConfigMap per Lamp, tells it in the status, counts with a timer, cleans up."""

from __future__ import annotations

import importlib
from typing import Any

import kopf

client: Any = importlib.import_module("kubernetes.client")
importlib.import_module("kubernetes.config").load_kube_config()


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = True
    settings.persistence.finalizer = "example.org/operator"


def _body(spec: Any) -> dict[str, Any]:
    body = {"metadata": {"name": "unnamed"}, "data": {"colour": spec["colour"]}}
    kopf.adopt(body)
    return body


@kopf.on.create("example.org", "v1", "lamps")
def created(spec: Any, name: Any, namespace: Any, **_: Any) -> dict[str, str]:
    body = _body(spec) | {"metadata": _body(spec)["metadata"] | {"name": name}}
    try:
        client.CoreV1Api().create_namespaced_config_map(namespace, body)
    except client.ApiException as error:
        if error.status != 409:
            raise
    return {"colour": spec["colour"]}


@kopf.on.update("example.org", "v1", "lamps", field="spec.colour")
def changed(new: Any, name: Any, namespace: Any, **_: Any) -> dict[str, str]:
    client.CoreV1Api().patch_namespaced_config_map(name, namespace, {"data": {"colour": new}})
    return {"colour": new}


@kopf.on.delete("example.org", "v1", "lamps")
def gone(name: Any, namespace: Any, **_: Any) -> None:
    body = {"metadata": {"name": f"farewell-{name}"}}
    client.CoreV1Api().create_namespaced_config_map(namespace, body)


@kopf.timer("example.org", "v1", "lamps", interval=0.3)
def tick(status: Any, patch: kopf.Patch, **_: Any) -> None:
    patch.status["ticks"] = int(status.get("ticks", 0)) + 1
