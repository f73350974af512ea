"""What the spec of a Pod must obey, in a Pod and in a template of one.

Beside it: `containerrules`, `volumerules`, `placementrules`. Left out: rules of resource claims, of Windows.
Source: Kubernetes API reference, `PodSpec`; texts and their order seen on version 1.36.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.containerrules import container_faults, profile_faults
from gateway.wire.kube.judging import (
    MOST_INT,
    address,
    between,
    forbidden,
    known,
    label_faults,
    named,
    unsupported,
)
from gateway.wire.kube.names import (
    invalid_value,
    label_fault,
    qualified_fault,
    required,
    subdomain_fault,
)
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.placementrules import affinity_faults, spread_faults, toleration_faults
from gateway.wire.kube.status import Cause
from gateway.wire.kube.volumerules import volume_faults

RESTART = ("Always", "OnFailure", "Never")
DNS = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")
_SYSCTL_RULE = (
    "must have at most 253 characters and match regex"
    r" ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
)
_SEARCH = re.compile(r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*")
_SEARCH_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.',"
    " and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation"
    r" is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"
)
MAX_SERVERS, MAX_SEARCHES = 3, 32


def spec_faults(path: str, spec: JsonObject) -> Iterator[Cause]:
    """Return what is wrong with a spec at `path`, as the API server says it."""
    volumes = rows(spec.get("volumes"))
    yield from volume_faults(f"{path}.volumes", volumes)
    names = {text(volume.get("name")) for volume in volumes}
    yield from container_faults(path, spec, names)
    yield from known(f"{path}.restartPolicy", spec.get("restartPolicy"), RESTART, must=True)
    yield from known(f"{path}.dnsPolicy", spec.get("dnsPolicy"), DNS, must=True)
    yield from label_faults(f"{path}.nodeSelector", spec.get("nodeSelector"))
    yield from _security_faults(f"{path}.securityContext", spec)
    yield from affinity_faults(f"{path}.affinity", part(spec, "affinity"))
    yield from _dns_faults(f"{path}.dnsConfig", spec)
    for at, gate in enumerate(rows(spec.get("readinessGates"))):
        where = f"{path}.readinessGates[{at}].conditionType"
        yield from named(where, gate.get("conditionType") or "", qualified_fault)
    yield from spread_faults(f"{path}.topologySpreadConstraints", spec)
    yield from _name_faults(path, spec)
    yield from toleration_faults(f"{path}.tolerations", rows(spec.get("tolerations")))
    yield from _alias_faults(f"{path}.hostAliases", rows(spec.get("hostAliases")))
    for name in ("priorityClassName", "runtimeClassName"):
        if spec.get(name):
            yield from named(f"{path}.{name}", spec[name], subdomain_fault)
    system = part(spec, "os").get("name")
    if "os" in spec and system not in ("linux", "windows"):
        yield unsupported(f"{path}.os", system or "", ("linux", "windows"))


def _name_faults(path: str, spec: JsonObject) -> Iterator[Cause]:
    for name, rule in (
        ("serviceAccountName", subdomain_fault),
        ("nodeName", subdomain_fault),
    ):
        if spec.get(name):
            yield from named(f"{path}.{name}", spec[name], rule)
    deadline = spec.get("activeDeadlineSeconds")
    yield from between(f"{path}.activeDeadlineSeconds", deadline, 1, MOST_INT)
    for name in ("hostname", "subdomain"):
        if spec.get(name):
            yield from named(f"{path}.{name}", spec[name], label_fault)


def _alias_faults(path: str, aliases: list[JsonObject]) -> Iterator[Cause]:
    for at, alias in enumerate(aliases):
        yield from address(f"{path}[{at}].ip", alias.get("ip") or "")
        names = alias.get("hostnames")
        for index, name in enumerate(names if isinstance(names, list) else []):
            yield from named(f"{path}[{at}].hostnames[{index}]", name, subdomain_fault)


def _dns_faults(path: str, spec: JsonObject) -> Iterator[Cause]:
    config = part(spec, "dnsConfig")
    servers, searches = _list(config.get("nameservers")), _list(config.get("searches"))
    if spec.get("dnsPolicy") == "None":
        if "dnsConfig" not in spec:
            yield required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
            return
        if not servers:
            why = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            yield required(f"{path}.nameservers", why)
    if len(servers) > MAX_SERVERS:
        why = f"must not have more than {MAX_SERVERS} nameservers"
        yield invalid_value(f"{path}.nameservers", servers, why)
    for at, server in enumerate(servers):
        yield from address(f"{path}.nameservers[{at}]", server)
    if len(searches) > MAX_SEARCHES:
        why = f"must not have more than {MAX_SEARCHES} search paths"
        yield invalid_value(f"{path}.searches", searches, why)
    for at, search in enumerate(searches):
        yield from named(f"{path}.searches[{at}]", search, _search_fault)
    for at, option in enumerate(rows(config.get("options"))):
        if not option.get("name"):
            yield required(f"{path}.options[{at}]", "must not be empty")


def _search_fault(value: str) -> str | None:
    name = value.removesuffix(".")
    return None if not name or _SEARCH.fullmatch(name) else _SEARCH_RULE


def _security_faults(path: str, spec: JsonObject) -> Iterator[Cause]:
    context = part(spec, "securityContext")
    if spec.get("shareProcessNamespace") is True and spec.get("hostPID") is True:
        why = "ShareProcessNamespace and HostPID cannot both be enabled"
        yield invalid_value(f"{path}.shareProcessNamespace", True, why)
    for name in ("fsGroup", "runAsUser", "runAsGroup"):
        yield from between(f"{path}.{name}", context.get(name), 0, MOST_INT)
    for at, group in enumerate(_list(context.get("supplementalGroups"))):
        yield from between(f"{path}.supplementalGroups[{at}]", group, 0, MOST_INT)
    yield from _sysctl_faults(f"{path}.sysctls", spec, rows(context.get("sysctls")))
    policies = ("Always", "OnRootMismatch")
    yield from known(f"{path}.fsGroupChangePolicy", context.get("fsGroupChangePolicy"), policies)
    yield from profile_faults(path, context)
    wanted = context.get("supplementalGroupsPolicy")
    yield from known(f"{path}.supplementalGroupsPolicy", wanted, ("Merge", "Strict"))


def _sysctl_faults(path: str, spec: JsonObject, found: list[JsonObject]) -> Iterator[Cause]:
    seen: set[str] = set()
    for at, row in enumerate(found):
        name = text(row.get("name"))
        where = f"{path}[{at}].name"
        if not name:
            yield required(where)
        elif len(name) > 253 or not _SYSCTL.fullmatch(name):
            yield invalid_value(where, name, _SYSCTL_RULE)
        elif name in seen:
            yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', where)
        elif spec.get("hostNetwork") is True and name.startswith("net."):
            yield invalid_value(where, name, "may not be specified when 'hostNetwork' is true")
        seen.add(name)


def no_ephemeral(spec: JsonObject) -> Iterator[Cause]:
    """Containers for debugging come later, through a door of their own."""
    if spec.get("ephemeralContainers"):
        yield forbidden("spec.ephemeralContainers", "cannot be set on create")


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
