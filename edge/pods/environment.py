"""Environment variables of containers, and what `$(NAME)` in their commands becomes.

Objects are fetched first (`references` says which), all else is decided without I/O.
Source: Kubernetes "Define Environment Variables", "Service environment variables"; order and texts as the
kubelet of 1.36.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from edge.pods.podfields import Amounts, field_value, resource_value
from edge.pods.podspec import Container, EnvFrom, EnvSource, EnvVar, FileKeyRef, KeyRef, Pod
from edge.pods.ports import NotYet
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text

CONFIG_MAP, SECRET = "ConfigMap", "Secret"
CREATE_ERROR: Final = "CreateContainerConfigError"
_REFERENCE = re.compile(r"\$(?:(\$)|\(([^)]*)\))")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An object that an environment reads: `kind` is ConfigMap or Secret."""

    kind: str
    name: str


ReadFile = Callable[[FileKeyRef], str]
"""Text of a file of a volume. Errors: NotYet."""


def _no_files(ref: FileKeyRef) -> str:
    raise faulty(f'cannot find the volume "{ref.volume_name}" referenced by FileKeyRef')


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a container is told of besides its Pod; `missing` says why an object is not among them."""

    objects: Mapping[Reference, JsonObject] = field(default_factory=dict)
    missing: Mapping[Reference, str] = field(default_factory=dict)
    services: Mapping[str, str] = field(default_factory=dict)
    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    allocatable: Amounts = field(default_factory=dict)
    read_file: ReadFile = _no_files


def faulty(message: str) -> NotYet:
    """A container that cannot be made as it is asked for now."""
    return NotYet(CREATE_ERROR, message)


# --- expansion ------------------------------------------------------------------------------------


def expand(value: str, *tables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the first table that has it; `$$` is one `$`; what nobody knows stays."""

    def shown(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name = found[2]
        return next((table[name] for table in tables if name in table), found[0])

    return _REFERENCE.sub(shown, value)


def expand_all(values: Iterable[str], envs: Mapping[str, str]) -> tuple[str, ...]:
    """Expand a command or its arguments."""
    return tuple(expand(each, envs) for each in values)


# --- objects --------------------------------------------------------------------------------------


def references(container: Container) -> list[Reference]:
    """Return what must be fetched for a container, in the order in which it is read, each once."""
    return list(dict.fromkeys(_read_of(container)))


def _read_of(container: Container) -> Iterator[Reference]:
    for source in container.env_from:
        found = _whole(source)
        if found is not None:
            yield found[0]
    for env in container.env:
        if env.value or env.value_from is None:
            continue
        keyed = _keyed(env.value_from)
        if keyed is not None:
            yield keyed[0]


def _whole(source: EnvFrom) -> tuple[Reference, bool] | None:
    for kind, ref in ((CONFIG_MAP, source.config_map_ref), (SECRET, source.secret_ref)):
        if ref is not None:
            return Reference(kind, ref.name), bool(ref.optional)
    return None


def _keyed(source: EnvSource) -> tuple[Reference, KeyRef] | None:
    for kind, ref in ((CONFIG_MAP, source.config_map_key_ref), (SECRET, source.secret_key_ref)):
        if ref is not None:
            return Reference(kind, ref.name), ref
    return None


def _absent(ref: Reference, around: Surroundings) -> NotYet:
    return faulty(around.missing.get(ref, f'{ref.kind.lower()} "{ref.name}" not found'))


def _value(ref: Reference, key: str, value: Json) -> str:
    """A value as text; those of Secrets are base64. Errors: NotYet for one that is no text."""
    if ref.kind == CONFIG_MAP:
        return text(value)
    try:
        return base64.b64decode(text(value), validate=True).decode()
    except ValueError:  # the error has a part of the Secret in it
        raise faulty(f"key {key} of Secret {ref.name} is no text") from None


# --- the environment ------------------------------------------------------------------------------


def environment(pod: Pod, container: Container, around: Surroundings) -> dict[str, str]:
    """Return a container's variables: envFrom, then env over it, then services that nothing hides.

    Errors: NotYet (`CreateContainerConfigError`): an object or key that must be there is not, a field that
            cannot be asked for.
    """
    found: dict[str, str] = {}
    for source in container.env_from:
        found |= _from_object(source, around)
    for env in container.env:
        value = _resolved(pod, container, env, found, around)
        if value is not None:
            found[env.name] = value
    return found | {key: value for key, value in around.services.items() if key not in found}


def _from_object(source: EnvFrom, around: Surroundings) -> dict[str, str]:
    meant = _whole(source)
    if meant is None:
        return {}
    ref, is_optional = meant
    item = around.objects.get(ref)
    if item is None:
        if is_optional:
            return {}
        raise _absent(ref, around)
    data = part(item, "data")
    return {source.prefix + key: _value(ref, key, value) for key, value in data.items()}


def _resolved(
    pod: Pod, container: Container, env: EnvVar, known: dict[str, str], around: Surroundings
) -> str | None:
    """Return a variable's value; None leaves it out."""
    source = env.value_from
    if env.value or source is None:
        return expand(env.value, known, around.services)
    try:
        if source.field_ref is not None:
            return field_value(pod, source.field_ref, around.pod_ips, around.host_ips)
        if source.resource_field_ref is not None:
            return resource_value(pod, container, source.resource_field_ref, around.allocatable)
    except BadRequest as error:
        raise faulty(error.message) from error
    if source.file_key_ref is not None:
        return _of_file(source.file_key_ref, around.read_file)
    return _of_key(pod, source, around)


def _of_key(pod: Pod, source: EnvSource, around: Surroundings) -> str | None:
    meant = _keyed(source)
    if meant is None:
        return ""
    ref, key = meant
    item = around.objects.get(ref)
    if item is None:
        if key.optional:
            return None
        raise _absent(ref, around)
    data = part(item, "data")
    if key.key in data:
        return _value(ref, key.key, data[key.key])
    if key.optional:
        return None
    where = f"{ref.kind} {pod.meta.namespace}/{ref.name}"
    raise faulty(f"couldn't find key {key.key} in {where}")


# --- files of variables ---------------------------------------------------------------------------


def _of_file(ref: FileKeyRef, read_file: ReadFile) -> str | None:
    try:
        found = variable_of(read_file(ref), ref.key)
    except BadRequest as error:
        raise faulty(f"couldn't parse env file: {error.message}") from error
    if found:
        return found
    if ref.optional:
        return None
    raise faulty(f'environment variable key "{ref.key}" not found in file "{ref.path}"')


def variable_of(content: str, key: str) -> str:
    """Return a variable of a file of lines `NAME='value'`, empty when it is not there.

    Shape:  values in single quotes, over several lines if need be; `#` begins a comment; `NAME= 'value'` is
            empty.
    Errors: BadRequest, naming the line.
    """
    lines = enumerate(content.split("\n"), 1)
    for number, line in lines:
        stripped = line.lstrip(" \t").rstrip("\r")
        if not stripped or stripped.startswith("#"):
            continue
        name, value = _assigned(number, stripped)
        found = "" if value[:1] in (" ", "\t") else _unquoted(number, value, lines)
        if name == key:
            return found
    return ""


def _assigned(number: int, line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not equals:
        raise _malformed(number, "missing '='")
    if not name.rstrip(" \t"):
        raise _malformed(number, "empty variable name")
    if name != name.rstrip(" \t"):
        raise _malformed(number, "whitespace before '=' is not allowed")
    return name, value


def _unquoted(number: int, value: str, lines: Iterator[tuple[int, str]]) -> str:
    if not value.startswith("'"):
        raise _malformed(number, "value must be enclosed in single quotes")
    rest, kept, first = value[1:], "", number
    while "'" not in rest:
        kept += rest + "\n"
        following = next(lines, None)
        if following is None:
            raise _malformed(first, "unclosed single quote", "starting at")
        number, rest = following[0], following[1].rstrip("\r")
    end, _, after = rest.partition("'")
    if after.lstrip(" \t")[:1] not in ("", "#"):
        raise _malformed(number, "unexpected content after closing quote")
    return kept + end


def _malformed(number: int, why: str, at: str = "at") -> BadRequest:
    return BadRequest(f"invalid environment variable format {at} line {number}: {why}")


# --- services -------------------------------------------------------------------------------------


def service_variables(
    services: Iterable[JsonObject], namespace: str, has_links: bool
) -> dict[str, str]:
    """Return the variables of the Services that a Pod sees.

    Shape:  always `KUBERNETES_SERVICE_HOST` and its like of `default/kubernetes`; with links all Services of
            the Pod's namespace that have an address.
    """
    seen: dict[str, JsonObject] = {}
    for item in services:
        meta = part(item, "metadata")
        name, place = text(meta.get("name")), text(meta.get("namespace"))
        if _address(item) is None:
            continue
        if place == namespace and has_links:
            seen[name] = item
        elif (place, name) == ("default", "kubernetes"):
            seen.setdefault(name, item)
    return {key: value for name in sorted(seen) for key, value in _variables(name, seen[name])}


def _address(item: JsonObject) -> str | None:
    address = text(part(item, "spec").get("clusterIP"))
    return address if address not in ("", "None") else None


def _variables(name: str, item: JsonObject) -> Iterator[tuple[str, str]]:
    address, ports = _address(item) or "", rows(part(item, "spec").get("ports"))
    prefix = _variable_name(name)
    yield f"{prefix}_SERVICE_HOST", address
    for at, port in enumerate(ports):
        number, label = str(port.get("port")), text(port.get("name"))
        if at == 0:
            yield f"{prefix}_SERVICE_PORT", number
        if label:
            yield f"{prefix}_SERVICE_PORT_{_variable_name(label)}", number
    for at, port in enumerate(ports):
        yield from _link(prefix, address, port, is_first=at == 0)


def _link(
    prefix: str, address: str, port: JsonObject, *, is_first: bool
) -> Iterator[tuple[str, str]]:
    number, protocol = str(port.get("port")), text(port.get("protocol")) or "TCP"
    host = f"[{address}]" if ":" in address else address
    url = f"{protocol.lower()}://{host}:{number}"
    if is_first:
        yield f"{prefix}_PORT", url
    name = f"{prefix}_PORT_{number}_{protocol.upper()}"
    yield name, url
    yield f"{name}_PROTO", protocol.lower()
    yield f"{name}_PORT", number
    yield f"{name}_ADDR", address


def _variable_name(name: str) -> str:
    return name.replace("-", "_").upper()
