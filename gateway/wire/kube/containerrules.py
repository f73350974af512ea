"""What containers must obey: names, images, ports, environment, mounts, amounts, probes, security.

Source: Kubernetes API reference, `Container`; texts and their order seen on version 1.36.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.amountrules import resource_faults
from gateway.wire.kube.judging import (
    MOST_INT,
    PROTOCOLS,
    Judge,
    between,
    duplicate,
    forbidden,
    known,
    none_negative,
    not_found,
    only_one,
    port_name,
    port_number,
    port_or_name,
    unsupported,
)
from gateway.wire.kube.names import invalid_value, label_fault, required
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.status import Cause

PULL = ("Always", "IfNotPresent", "Never")
_ENV = re.compile(r"[ -<>-~]+")
_ENV_RULE = "a valid environment variable name must consist only of printable ASCII characters other than '='"
_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_KEYED = re.compile(r"metadata\.(labels|annotations)\['.+'\]")
_RESOURCES = ("limits.", "requests.")


def container_faults(path: str, spec: JsonObject, volumes: set[str]) -> Iterator[Cause]:
    """Return what is wrong with the containers of a spec; `volumes` are the names of its volumes."""
    plain = rows(spec.get("containers"))
    if not plain:
        yield required(f"{path}.containers")
    seen: set[str] = set()
    for part_, is_init in (("containers", False), ("initContainers", True)):
        for at, container in enumerate(rows(spec.get(part_))):
            where = f"{path}.{part_}[{at}]"
            yield from _one(where, container, spec, volumes, is_init=is_init)
            name = text(container.get("name"))
            if name and name in seen:
                yield duplicate(f"{where}.name", name)
            seen.add(name)


def _one(
    path: str, container: JsonObject, spec: JsonObject, volumes: set[str], *, is_init: bool
) -> Iterator[Cause]:
    name, image = text(container.get("name")), text(container.get("image"))
    if not name:
        yield required(f"{path}.name")
    elif label_fault(name):
        yield invalid_value(f"{path}.name", name, label_fault(name) or "")
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        why = "must not have leading or trailing whitespace"
        yield invalid_value(f"{path}.image", image, why)
    message = container.get("terminationMessagePolicy")
    yield from known(
        f"{path}.terminationMessagePolicy", message, ("File", "FallbackToLogsOnError"), must=True
    )
    yield from _port_faults(f"{path}.ports", container, spec)
    yield from _env_faults(f"{path}.env", rows(container.get("env")))
    yield from _env_from_faults(f"{path}.envFrom", rows(container.get("envFrom")))
    yield from _mount_faults(f"{path}.volumeMounts", rows(container.get("volumeMounts")), volumes)
    yield from known(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), PULL, must=True)
    yield from resource_faults(f"{path}.resources", part(container, "resources"))
    yield from _security_faults(path, container)
    yield from _running_faults(path, container, is_init=is_init)


# --- ports, environment, mounts -------------------------------------------------------------------


def _port_faults(path: str, container: JsonObject, spec: JsonObject) -> Iterator[Cause]:
    seen: set[str] = set()
    for at, port in enumerate(rows(container.get("ports"))):
        where, name = f"{path}[{at}]", text(port.get("name"))
        if name:
            faults = [*port_name(f"{where}.name", name)]
            yield from faults
            if not faults and name in seen:
                yield duplicate(f"{where}.name", name)
            seen.add(name)
        number, host = port.get("containerPort"), port.get("hostPort")
        if not number:
            yield required(f"{where}.containerPort")
        yield from port_number(f"{where}.containerPort", number or None)
        yield from port_number(f"{where}.hostPort", host or None)
        yield from known(f"{where}.protocol", port.get("protocol"), PROTOCOLS, must=True)
        if spec.get("hostNetwork") is True and host and host != number:
            why = "must match `containerPort` when `hostNetwork` is true"
            yield invalid_value(f"{where}.hostPort", host, why)


def _env_faults(path: str, found: list[JsonObject]) -> Iterator[Cause]:
    for at, row in enumerate(found):
        where, name = f"{path}[{at}]", text(row.get("name"))
        if not name:
            yield required(f"{where}.name")
        elif not _ENV.fullmatch(name):
            yield invalid_value(f"{where}.name", name, _ENV_RULE)
        if isinstance(row.get("valueFrom"), dict):
            yield from _env_source_faults(f"{where}.valueFrom", row, part(row, "valueFrom"))


def _env_source_faults(path: str, row: JsonObject, source: JsonObject) -> Iterator[Cause]:
    field, resource = part(source, "fieldRef"), part(source, "resourceFieldRef")
    if field:
        yield from field_faults(f"{path}.fieldRef", field, _FIELDS)
    if resource:
        yield from amount_of_faults(f"{path}.resourceFieldRef", resource)
    for name in ("configMapKeyRef", "secretKeyRef"):
        chosen = part(source, name)
        if chosen and not chosen.get("key"):
            yield required(f"{path}.{name}.key")
    count = sum(isinstance(value, dict) for value in source.values())
    if not count:
        why = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef`"
            " or `fileKeyRef`"
        )
        yield invalid_value(path, "", why)
    elif row.get("value"):
        yield invalid_value(path, "", "may not be specified when `value` is not empty")
    elif count > 1:
        yield invalid_value(path, "", "may not have more than one field specified at a time")


def field_faults(path: str, field: JsonObject, allowed: tuple[str, ...]) -> Iterator[Cause]:
    """A field of the Pod that a container reads."""
    name = text(field.get("fieldPath"))
    if not name:
        yield required(f"{path}.fieldPath")
    elif name not in _FIELDS and not _KEYED.fullmatch(name):
        why = f"error converting fieldPath: field label not supported: {name}"
        yield invalid_value(f"{path}.fieldPath", name, why)
    elif name not in allowed and not _KEYED.fullmatch(name):
        yield unsupported(f"{path}.fieldPath", name, sorted(allowed))


def amount_of_faults(path: str, resource: JsonObject) -> Iterator[Cause]:
    """An amount of the container that it reads itself."""
    name = text(resource.get("resource"))
    if not name:
        yield required(f"{path}.resource")
    elif not name.startswith(_RESOURCES):
        words = (
            "limits.cpu",
            "limits.ephemeral-storage",
            "limits.memory",
            "requests.cpu",
            "requests.ephemeral-storage",
            "requests.memory",
        )
        yield unsupported(f"{path}.resource", name, words)


def _env_from_faults(path: str, found: list[JsonObject]) -> Iterator[Cause]:
    for row in found:
        sources = [name for name in ("configMapRef", "secretRef") if name in row]
        for name in sources:
            if not part(row, name).get("name"):
                yield required(f"{path}.{name}.name")
        if not sources:
            yield invalid_value(path, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(sources) > 1:
            yield invalid_value(path, "", "may not have more than one field specified at a time")


_PROPAGATION = ("Bidirectional", "HostToContainer", "None")


def _mount_faults(path: str, found: list[JsonObject], volumes: set[str]) -> Iterator[Cause]:
    seen: set[str] = set()
    for at, mount in enumerate(found):
        where, name = f"{path}[{at}]", text(mount.get("name"))
        place = text(mount.get("mountPath"))
        if not name:
            yield required(f"{where}.name")
        elif name not in volumes:
            yield not_found(f"{where}.name", name)
        if not place:
            yield required(f"{where}.mountPath")
        elif place in seen:
            yield invalid_value(f"{where}.mountPath", place, "must be unique")
        seen.add(place)
        for key in ("subPath", "subPathExpr"):
            if mount.get(key):
                yield from inner_path_faults(f"{path}.{key}", text(mount[key]))
        if mount.get("subPath") and mount.get("subPathExpr"):
            why = "subPathExpr and subPath are mutually exclusive"
            yield invalid_value(f"{path}.subPathExpr", mount["subPathExpr"], why)
        spread = mount.get("mountPropagation")
        yield from known(f"{path}.mountPropagation", spread, _PROPAGATION)


def inner_path_faults(path: str, value: str) -> Iterator[Cause]:
    """A path within something, that does not lead out of it."""
    if value.startswith("/"):
        yield invalid_value(path, value, "must be a relative path")
    yield from no_way_back(path, value)


def no_way_back(path: str, value: str) -> Iterator[Cause]:
    if ".." in value.split("/"):
        yield invalid_value(path, value, "must not contain '..'")


# --- security -------------------------------------------------------------------------------------


def _security_faults(path: str, container: JsonObject) -> Iterator[Cause]:
    context, where = part(container, "securityContext"), f"{path}.securityContext"
    for name in ("runAsUser", "runAsGroup"):
        yield from between(f"{where}.{name}", context.get(name), 0, MOST_INT)
    mount = context.get("procMount")
    yield from known(f"{where}.procMount", mount, ("Default", "Unmasked"))
    yield from profile_faults(where, context)
    if context.get("allowPrivilegeEscalation") is False:
        added = part(context, "capabilities").get("add")
        if context.get("privileged") is True:
            why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            yield _context_fault(where, context, why)
        if isinstance(added, list) and "CAP_SYS_ADMIN" in added:
            why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            yield _context_fault(where, context, why)


_SHOWN = (
    ("Capabilities", "capabilities"),
    ("Privileged", "privileged"),
    ("SELinuxOptions", "seLinuxOptions"),
    ("WindowsOptions", "windowsOptions"),
    ("RunAsUser", "runAsUser"),
    ("RunAsGroup", "runAsGroup"),
    ("RunAsNonRoot", "runAsNonRoot"),
    ("ReadOnlyRootFilesystem", "readOnlyRootFilesystem"),
    ("AllowPrivilegeEscalation", "allowPrivilegeEscalation"),
    ("ProcMount", "procMount"),
    ("SeccompProfile", "seccompProfile"),
    ("AppArmorProfile", "appArmorProfile"),
)


def _context_fault(path: str, context: JsonObject, why: str) -> Cause:
    """The whole context is shown, every field of it, in the order of the type."""
    shown = ",".join(f'"{name}":{_go(context.get(key))}' for name, key in _SHOWN)
    return Cause("FieldValueInvalid", f"Invalid value: {{{shown}}}: {why}", path)


def _go(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inner = ",".join(f'"{key[:1].upper()}{key[1:]}":{_go(each)}' for key, each in value.items())
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ",".join(_go(each) for each in value) + "]"
    return "null" if value is None else f'"{value}"' if isinstance(value, str) else str(value)


_PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")


def profile_faults(path: str, context: JsonObject) -> Iterator[Cause]:
    """The profiles of seccomp and AppArmor, of a Pod or a container."""
    for name, word in (("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")):
        profile, where = part(context, name), f"{path}.{name}"
        if name not in context:
            continue
        kind, local = profile.get("type"), profile.get("localhostProfile")
        yield from known(f"{where}.type", kind, _PROFILES, must=True)
        if kind == "Localhost" and not local:
            why = f"must be set when {word} type is Localhost"
            yield required(f"{where}.localhostProfile", why)
        elif kind != "Localhost" and local is not None:
            why = f"can only be set when {word} type is Localhost"
            yield invalid_value(f"{where}.localhostProfile", local, why)
        elif local:
            yield from inner_path_faults(f"{where}.localhostProfile", text(local))


# --- probes and handlers --------------------------------------------------------------------------

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_TIMES = (
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
)


def _running_faults(path: str, container: JsonObject, *, is_init: bool) -> Iterator[Cause]:
    """What goes on while a container runs: hooks and probes; not for those that only prepare."""
    lasts = not is_init or container.get("restartPolicy") == "Always"
    for name in ("lifecycle", *_PROBES):
        if not lasts and name in container:
            why = "may not be set for init containers without restartPolicy=Always"
            yield forbidden(f"{path}.{name}", why)
    if not lasts:
        return
    hooks = part(container, "lifecycle")
    for name in ("postStart", "preStop"):
        if isinstance(hooks.get(name), dict):
            yield from _handler_faults(f"{path}.lifecycle.{name}", part(hooks, name))
    for name in _PROBES:
        if isinstance(container.get(name), dict):
            yield from _probe_faults(f"{path}.{name}", part(container, name), name)


def _probe_faults(path: str, probe: JsonObject, name: str) -> Iterator[Cause]:
    yield from _handler_faults(path, probe)
    yield from none_negative(probe, path, *_TIMES)
    grace, often = probe.get("terminationGracePeriodSeconds"), probe.get("successThreshold")
    if isinstance(grace, int) and grace <= 0:
        yield invalid_value(
            f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0"
        )
    if name != "readinessProbe" and often not in (None, 1):
        yield invalid_value(f"{path}.successThreshold", often, "must be 1")
    if name == "readinessProbe" and grace is not None:
        why = "must not be set for readinessProbes"
        yield invalid_value(f"{path}.terminationGracePeriodSeconds", grace, why)


def _handler_faults(path: str, handler: JsonObject) -> Iterator[Cause]:
    names = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
    yield from only_one(path, handler, names, _HANDLERS, "handler")
    if not any(handler.get(name) is not None for name in names):
        yield required(path, "must specify a handler type")


def _exec(path: str, action: JsonObject) -> Iterator[Cause]:
    if not action.get("command"):
        yield required(f"{path}.command")


def _http(path: str, action: JsonObject) -> Iterator[Cause]:
    if not action.get("path"):
        yield required(f"{path}.path")
    yield from port_or_name(f"{path}.port", action.get("port"))
    yield from known(f"{path}.scheme", action.get("scheme"), ("HTTP", "HTTPS"), must=True)
    for at, header in enumerate(rows(action.get("httpHeaders"))):
        if not header.get("name"):
            yield required(f"{path}.httpHeaders[{at}]")


def _tcp(path: str, action: JsonObject) -> Iterator[Cause]:
    yield from port_or_name(f"{path}.port", action.get("port"))


def _grpc(path: str, action: JsonObject) -> Iterator[Cause]:
    yield from port_number(f"{path}.port", action.get("port") or 0)


_HANDLERS: Mapping[str, Judge] = {"exec": _exec, "httpGet": _http, "tcpSocket": _tcp, "grpc": _grpc}
