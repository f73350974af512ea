"""The API's plain paths: health, version, discovery, OpenAPI. No web framework, no caller.

What HTTP and the in-process client both answer from.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from multidict import MultiMapping

from gateway.kube.client import NO_QUERY
from gateway.kube.typedata import KUBERNETES_VERSION, catalogue
from gateway.model.json import JsonObject
from gateway.wire.kube import discovery, openapi
from gateway.wire.kube.requests import aggregated_version
from gateway.wire.kube.resources import Registry

TITLE = "Kubernetes"
GIT_VERSION = f"{KUBERNETES_VERSION}+twinspan"
JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
PROBES = ("healthz", "livez", "readyz")


@dataclass(frozen=True, slots=True)
class Document:
    """What a path shows; a cacheable one may be kept by clients and asked about by its tag."""

    body: bytes
    content_type: str = JSON
    status: int = 200
    is_cacheable: bool = False

    @property
    def tag(self) -> str:
        return f'"{digest(self.body)}"'


_GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def go_platform(system: str, machine: str) -> str:
    """Name system and machine as Go does, from what this language calls them."""
    machine = machine.lower()
    return f"{system.lower()}/{_GO_MACHINES.get(machine, machine)}"


def digest(body: bytes) -> str:
    """Return the hash that names a document."""
    return hashlib.sha256(body).hexdigest().upper()


class Documents:
    """The plain paths of one API; `address` is filled in when its listener is bound."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._kept: dict[str, tuple[int, bytes]] = {}
        self.address = ""
        self.is_ready = False
        self.fixed: dict[str, Document] = {}
        """Further documents by their paths."""

    def find(
        self, path: str, accept: str | None, query: Mapping[str, str] = NO_QUERY
    ) -> Document | None:
        """Return what `path` (without a last slash) shows, None where there is no such path."""
        _, probe, *checks = path.split("/", 2)
        if probe in PROBES:
            return self._health(probe, checks, query)
        fixed = self.fixed.get(path)
        if fixed is not None:
            return fixed
        known = self._PATHS.get(path)
        return known(self, accept) if known is not None else self._of_group(path)

    def _health(self, probe: str, checks: list[str], query: Mapping[str, str]) -> Document | None:
        """What a probe of health answers, one check of it, or each with `verbose`."""
        known = {"ping": True} | ({"ready": self.is_ready} if probe == "readyz" else {})
        if checks:
            known = {name: is_well for name, is_well in known.items() if name == checks[0]}
            if not known:
                return None
        left_out = query.getall("exclude", []) if isinstance(query, MultiMapping) else []
        well = all(is_well or name in left_out for name, is_well in known.items())
        if well and "verbose" not in query:
            return Document(b"ok", PLAIN)
        lines = [_verdict(name, name in left_out, is_well) for name, is_well in known.items()]
        strange = [name for name in left_out if name not in known]
        if strange:
            names = ", ".join(f'"{name[:200]}"' for name in strange)
            lines.append(f"warn: some health checks cannot be excluded: no matches for {names}")
        lines.append(f"{probe} check {'passed' if well else 'failed'}")
        return Document(
            "".join(f"{line}\n" for line in lines).encode(), PLAIN, 200 if well else 500
        )

    def _of_group(self, path: str) -> Document | None:
        parts = path.strip("/").split("/")
        if parts[:2] == ["openapi", "v3"]:
            return self._openapi_document("/".join(parts[2:]))
        if parts[0] == "apis" and len(parts) == 2:
            return _cacheable(discovery.api_group(self._registry, parts[1]))
        if parts[0] in ("api", "apis") and len(parts) > 1:
            return _cacheable(discovery.api_resource_list(self._registry, "/".join(parts[1:])))
        return None

    def _version(self, _accept: str | None) -> Document:
        major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
        facts = {
            "major": major,
            "minor": minor,
            "gitVersion": GIT_VERSION,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "",
            "platform": go_platform(platform.system(), platform.machine()),
        }
        return Document(msgspec.json.encode(facts))

    def _root(self, _accept: str | None) -> Document:
        served = [f"/{openapi.document_path(name)}" for name in self._registry.group_versions()]
        paths = ["/api", "/apis", *served, *sorted(self._PATHS)]
        return Document(msgspec.json.encode({"paths": sorted({*paths} - {"/"})}))

    def _core_discovery(self, accept: str | None) -> Document:
        return self._discovery(accept, core=True)

    def _group_discovery(self, accept: str | None) -> Document:
        return self._discovery(accept, core=False)

    def _discovery(self, accept: str | None, *, core: bool) -> Document:
        version = aggregated_version(accept, discovery.AGGREGATED_VERSIONS)
        if version is not None:
            found = discovery.aggregated(self._registry, version, core=core)
            kind = f"{JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            return Document(msgspec.json.encode(found), kind, is_cacheable=True)
        plain = (
            discovery.api_versions(self.address)
            if core
            else discovery.api_group_list(self._registry)
        )
        return Document(msgspec.json.encode(plain), is_cacheable=True)

    def _openapi_index(self, _accept: str | None) -> Document:
        versions = self._registry.group_versions()
        hashes = {name: digest(self._openapi(name) or b"") for name in versions}
        return Document(msgspec.json.encode(openapi.index(hashes)))

    def _openapi_document(self, path: str) -> Document | None:
        group_version = path.removeprefix("apis/").removeprefix("api/")
        body = self._openapi(group_version)
        if body is None or openapi.document_path(group_version) != path:
            return None
        return Document(body, is_cacheable=True)

    def _openapi(self, group_version: str) -> bytes | None:
        """An OpenAPI document, kept until a definition changes."""
        registry = self._registry
        known = self._kept.get(group_version)
        if known is not None and known[0] == registry.revision:
            return known[1]
        document = openapi.document(registry, catalogue(), group_version, TITLE, GIT_VERSION)
        if document is None:
            return None
        body = msgspec.json.encode(document)
        self._kept[group_version] = (registry.revision, body)
        return body

    def _openapi_v2(self, accept: str | None) -> Document:
        if "proto-openapi" in (accept or ""):
            return Document(openapi.v2_protobuf(TITLE, GIT_VERSION), openapi.V2_PROTOBUF)
        body = msgspec.json.encode(openapi.v2_json(TITLE, GIT_VERSION))
        return Document(body, is_cacheable=True)

    _PATHS: Mapping[str, Callable[[Documents, str | None], Document]] = {
        "/": _root,
        "/version": _version,
        "/api": _core_discovery,
        "/apis": _group_discovery,
        "/openapi/v2": _openapi_v2,
        "/openapi/v3": _openapi_index,
    }


def _verdict(name: str, is_left_out: bool, is_well: bool) -> str:
    if is_left_out:
        return f"[+]{name} excluded: ok"
    return f"[+]{name} ok" if is_well else f"[-]{name} failed: reason withheld"


def _cacheable(document: JsonObject | None) -> Document | None:
    if document is None:
        return None
    return Document(msgspec.json.encode(document), is_cacheable=True)
