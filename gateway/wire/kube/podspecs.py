"""How the spec of a Pod is completed, in a Pod and in a template of one.

Every function fills in a document that nobody else holds. Source: Kubernetes API reference, `PodSpec` and
`Volume`; "Configure Probes"; defaults seen on version 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text

GRACE_SECONDS = 30
"""What a Pod gets to end that does not say itself."""
CONTAINERS = ("initContainers", "containers")
EVERY_CONTAINER = (*CONTAINERS, "ephemeralContainers")
MODE = 0o644
TOKEN_SECONDS = 3_600

_SPEC: Final[JsonObject] = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
}
_CONTAINER: Final[JsonObject] = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
_PROBE: Final[JsonObject] = {
    "timeoutSeconds": 1,
    "periodSeconds": 10,
    "successThreshold": 1,
    "failureThreshold": 3,
}
_HTTP: Final[JsonObject] = {"path": "/", "scheme": "HTTP"}
_WITH_MODE = ("configMap", "secret", "downwardAPI", "projected")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def fill(item: JsonObject, defaults: JsonObject) -> None:
    """Set what is absent, or empty text or 0, which is the same to the API."""
    for key, value in defaults.items():
        if item.get(key) in (None, "", 0):
            item[key] = value


def opened(item: JsonObject, key: str) -> JsonObject:
    """Return a part of a document, made when it is not there."""
    value = item.get(key)
    if isinstance(value, dict):
        return value
    item[key] = made = dict[str, Json]()
    return made


def containers(spec: JsonObject, parts: tuple[str, ...] = CONTAINERS) -> Iterator[JsonObject]:
    """Yield the containers of a spec."""
    for name in parts:
        yield from rows(spec.get(name))


def complete_template(template: JsonObject) -> None:
    """Fill in what a template of Pods does not say."""
    opened(template, "metadata")
    complete_spec(opened(template, "spec"))


def complete_spec(spec: JsonObject) -> None:
    """Fill in what the spec of a Pod does not say, wherever it is."""
    fill(spec, _SPEC)
    spec.setdefault("terminationGracePeriodSeconds", GRACE_SECONDS)
    grace = spec["terminationGracePeriodSeconds"]
    if isinstance(grace, int) and grace < 0:
        spec["terminationGracePeriodSeconds"] = 1
    opened(spec, "securityContext")
    account = text(spec.get("serviceAccountName")) or text(spec.get("serviceAccount"))
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for container in containers(spec, EVERY_CONTAINER):
        _complete_container(container)
    for volume in rows(spec.get("volumes")):
        _complete_volume(volume)
    for constraint in rows(spec.get("topologySpreadConstraints")):
        fill(constraint, {"whenUnsatisfiable": constraint.get("whenUnsatisfiable") or ""})


def _complete_container(container: JsonObject) -> None:
    fill(container, _CONTAINER)
    opened(container, "resources")
    fill(container, {"imagePullPolicy": pull_policy(text(container.get("image")))})
    for variable in rows(container.get("env")):
        _complete_source(part(variable, "valueFrom"))
    for name in _PROBES:
        probe = container.get(name)
        if isinstance(probe, dict):
            fill(probe, _PROBE)
            _complete_handler(probe)
    for handler in part(container, "lifecycle").values():
        if isinstance(handler, dict):
            _complete_handler(handler)


def _complete_handler(handler: JsonObject) -> None:
    http, grpc = handler.get("httpGet"), handler.get("grpc")
    if isinstance(http, dict):
        fill(http, _HTTP)
    if isinstance(grpc, dict):
        grpc.setdefault("service", "")


def _complete_source(source: JsonObject) -> None:
    field, resource = source.get("fieldRef"), source.get("resourceFieldRef")
    if isinstance(field, dict):
        fill(field, {"apiVersion": "v1"})
    if isinstance(resource, dict):
        resource.setdefault("divisor", "0")


def pull_policy(image: str) -> str:
    """`latest`, said or not, may be another image tomorrow."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "IfNotPresent" if digest or tag not in ("", "latest") else "Always"


def _complete_volume(volume: JsonObject) -> None:
    if not volume.keys() - {"name"}:
        volume["emptyDir"] = {}
    for kind in _WITH_MODE:
        source = volume.get(kind)
        if isinstance(source, dict):
            source.setdefault("defaultMode", MODE)
    host, image = volume.get("hostPath"), volume.get("image")
    if isinstance(host, dict):
        host.setdefault("type", "")
    if isinstance(image, dict):
        fill(image, {"pullPolicy": pull_policy(text(image.get("reference")))})
    _complete_files(part(volume, "downwardAPI"))
    for source in rows(part(volume, "projected").get("sources")):
        _complete_files(part(source, "downwardAPI"))
        token = source.get("serviceAccountToken")
        if isinstance(token, dict):
            token.setdefault("expirationSeconds", TOKEN_SECONDS)
    claim = part(volume, "ephemeral").get("volumeClaimTemplate")
    if isinstance(claim, dict):
        opened(claim, "metadata")
        complete_claim_spec(opened(claim, "spec"))


def _complete_files(source: JsonObject) -> None:
    for file in rows(source.get("items")):
        _complete_source(file)


def complete_claim_spec(spec: JsonObject) -> None:
    """Fill in what a claim of a volume does not say."""
    spec.setdefault("volumeMode", "Filesystem")
    opened(spec, "resources")


def complete_ports_of_host(spec: JsonObject) -> None:
    """In the network of the host, ports are the host's."""
    if spec.get("hostNetwork") is not True:
        return
    for container in containers(spec):
        for port in rows(container.get("ports")):
            fill(port, {"hostPort": port.get("containerPort")})


def complete_requests(spec: JsonObject) -> None:
    """What a container is limited to it also asks for, where it does not say less."""
    for container in containers(spec):
        limits = part(container, "resources", "limits")
        if limits:
            requests = opened(opened(container, "resources"), "requests")
            for name, amount in limits.items():
                requests.setdefault(name, amount)
