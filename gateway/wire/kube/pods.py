"""How Pods are completed, judged and ended. Source: Kubernetes "Pods", "Pod Lifecycle", "Configure QoS".

Left out: the rules of security contexts, affinities and resource claims, resizing in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import invalid_value, label_fault, quoted, required
from gateway.wire.kube.status import Cause

GRACE_SECONDS = 30
"""What a Pod gets to end that does not say itself."""
ENDED = ("Succeeded", "Failed")
_POD_DEFAULTS: Final[JsonObject] = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "terminationGracePeriodSeconds": GRACE_SECONDS,
    "enableServiceLinks": True,
    "serviceAccountName": "default",
}
_CONTAINER_DEFAULTS: Final[JsonObject] = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
_MODE = 0o644
_VOLUME_MODES = ("configMap", "secret", "downwardAPI", "projected")
CONTAINERS = ("initContainers", "containers")
_CHANGEABLE = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations")
_POLICIES = ("Always", "OnFailure", "Never")


# --- completing -----------------------------------------------------------------------------------


def prepare_pod(item: JsonObject, old: JsonObject | None) -> None:
    """Fill in what a Pod does not say; a new one is Pending."""
    spec = _part(item, "spec")
    for key, value in _POD_DEFAULTS.items():
        spec.setdefault(key, value)
    spec.setdefault("securityContext", {})
    spec["serviceAccount"] = spec["serviceAccountName"]
    for container in (*_containers(spec), *_objects(spec.get("ephemeralContainers"))):
        _complete_container(container)
    for volume in _objects(spec.get("volumes")):
        _complete_volume(volume)
    if old is None:
        item["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}


def _complete_container(container: JsonObject) -> None:
    for key, value in _CONTAINER_DEFAULTS.items():
        container.setdefault(key, value)
    container.setdefault("resources", {})
    container.setdefault("imagePullPolicy", _pull_policy(str(container.get("image") or "")))
    for port in _objects(container.get("ports")):
        port.setdefault("protocol", "TCP")


def _pull_policy(image: str) -> str:
    """`latest`, said or not, may be another image tomorrow."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "IfNotPresent" if digest or tag not in ("", "latest") else "Always"


def _complete_volume(volume: JsonObject) -> None:
    if not volume.keys() - {"name"}:
        volume["emptyDir"] = {}
    for kind in _VOLUME_MODES:
        source = volume.get(kind)
        if isinstance(source, dict):
            source.setdefault("defaultMode", _MODE)


def qos_class(spec: JsonObject) -> str:
    """`Guaranteed`, `Burstable` or `BestEffort`, by what containers ask for and are limited to."""
    resources = [_table(each.get("resources")) for each in _containers(spec)]
    pairs = [(_table(r.get("requests")), _table(r.get("limits"))) for r in resources]
    if not any(requests or limits for requests, limits in pairs):
        return "BestEffort"
    is_fixed = all(
        name in limits and requests.get(name, limits[name]) == limits[name]
        for requests, limits in pairs
        for name in ("cpu", "memory")
    )
    return "Guaranteed" if is_fixed else "Burstable"


# --- judging --------------------------------------------------------------------------------------


def pod_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """Return what is wrong with a Pod, and what may not change any more."""
    spec = _table(item.get("spec"))
    found = [*_container_faults(spec), *_volume_faults(spec)]
    if spec.get("restartPolicy") not in _POLICIES:
        found.append(_unsupported("spec.restartPolicy", spec.get("restartPolicy"), _POLICIES))
    return found + (_fixed_faults(spec, _table(old.get("spec"))) if old else [])


def _container_faults(spec: JsonObject) -> Iterator[Cause]:
    if not _objects(spec.get("containers")):
        yield required("spec.containers")
    volumes = {volume.get("name") for volume in _objects(spec.get("volumes"))}
    seen: set[str] = set()
    for path, container in _places(spec):
        name = str(container.get("name") or "")
        why = label_fault(name) if name else None
        if not name:
            yield required(f"{path}.name")
        elif why:
            yield invalid_value(f"{path}.name", name, why)
        elif name in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {quoted(name)}", f"{path}.name")
        seen.add(name)
        if not container.get("image"):
            yield required(f"{path}.image")
        for at, mount in enumerate(_objects(container.get("volumeMounts"))):
            if mount.get("name") not in volumes:
                text = f"Not found: {quoted(mount.get('name'))}"
                yield Cause("FieldValueNotFound", text, f"{path}.volumeMounts[{at}].name")


def _volume_faults(spec: JsonObject) -> Iterator[Cause]:
    seen: set[Json] = set()
    for at, volume in enumerate(_objects(spec.get("volumes"))):
        name, path = str(volume.get("name") or ""), f"spec.volumes[{at}]"
        why = label_fault(name) if name else None
        if not name:
            yield required(f"{path}.name")
        elif why:
            yield invalid_value(f"{path}.name", name, why)
        elif name in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {quoted(name)}", f"{path}.name")
        seen.add(name)
        if len(volume.keys() - {"name"}) > 1:
            yield Cause(
                "FieldValueForbidden", "Forbidden: may not specify more than 1 volume type", path
            )


def _fixed_faults(spec: JsonObject, before: JsonObject) -> list[Cause]:
    """A Pod's spec is what was made, but for its images and a few times."""
    if _fixed(spec) == _fixed(before):
        return []
    text = (
        "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
        "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions"
        " to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it"
        " was previously negative)"
    )
    return [Cause("FieldValueForbidden", text, "spec")]


def _fixed(spec: JsonObject) -> JsonObject:
    kept: JsonObject = {key: value for key, value in spec.items() if key not in _CHANGEABLE}
    for part in CONTAINERS:
        kept[part] = [
            {key: value for key, value in container.items() if key != "image"}
            for container in _objects(spec.get(part))
        ]
    return kept


def _unsupported(path: str, value: Json, allowed: tuple[str, ...]) -> Cause:
    words = ", ".join(f'"{word}"' for word in sorted(allowed))
    text = f"Unsupported value: {quoted(value)}: supported values: {words}"
    return Cause("FieldValueNotSupported", text, path)


# --- ending ---------------------------------------------------------------------------------------


def pod_grace(item: JsonObject, asked: int | None) -> int:
    """Return the seconds that a Pod's deletion may take; 0 where nothing of it can be running."""
    spec, status = _table(item.get("spec")), _table(item.get("status"))
    if not spec.get("nodeName") or status.get("phase") in ENDED:
        return 0
    own = spec.get("terminationGracePeriodSeconds")
    seconds = asked if asked is not None else own if isinstance(own, int) else GRACE_SECONDS
    return 1 if seconds < 0 else seconds


# --- parts ----------------------------------------------------------------------------------------


def _places(spec: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    for part in CONTAINERS:
        for at, container in enumerate(_objects(spec.get(part))):
            yield f"spec.{part}[{at}]", container


def _containers(spec: JsonObject) -> list[JsonObject]:
    return [container for _, container in _places(spec)]


def _part(item: JsonObject, key: str) -> JsonObject:
    value = item.get(key)
    if isinstance(value, dict):
        return value
    item[key] = made = dict[str, Json]()
    return made


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: Json) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
