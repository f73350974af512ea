"""Which kinds an API server has: what the garbage collector and the deletion of namespaces go through.

Source: Kubernetes API concepts, aggregated discovery (apidiscovery.k8s.io/v2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from gateway.errors import Undeliverable
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text

_AS = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
ACCEPT = ",".join((_AS.format("v2"), _AS.format("v2beta1"), "application/json"))


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """A kind in the version that its server prefers."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool
    verbs: frozenset[str]

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def place(self) -> tuple[str, str]:
        return self.group_version, self.plural

    def __str__(self) -> str:
        return f"{self.group}/{self.version}, Resource={self.plural}"

    def may(self, *verbs: str) -> bool:
        """True where a kind has all of these verbs."""
        return self.verbs.issuperset(verbs)


@dataclass(frozen=True, slots=True)
class Discovered:
    """Shape: `failed` are groups whose server did not answer."""

    kinds: tuple[Kind, ...]
    failed: tuple[str, ...] = ()

    def of(self, group_version: str, kind: str) -> Kind | None:
        """Return a kind by the group of an apiVersion, and its name."""
        group = group_version.rpartition("/")[0]
        return next((one for one in self.kinds if (one.group, one.kind) == (group, kind)), None)


async def discover(kube: KubeClient) -> Discovered:
    """Ask which kinds there are. Errors: Undeliverable, and what the server says."""
    kinds: list[Kind] = []
    failed: list[str] = []
    for path in ("/api", "/apis"):
        groups = _groups(await kube.read(path, accept=ACCEPT))
        kinds += _kinds(groups)
        failed += _stale(groups)
    return Discovered(tuple(kinds), tuple(failed))


def _groups(body: bytes) -> list[JsonObject]:
    try:
        found: Json = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Undeliverable("discovery: the server sent no JSON") from error
    if not isinstance(found, dict) or found.get("kind") != "APIGroupDiscoveryList":
        raise Undeliverable("discovery: the server does not know aggregated discovery")
    return rows(found.get("items"))


def _kinds(groups: Iterable[JsonObject]) -> Iterator[Kind]:
    for entry in groups:
        group, seen = text(part(entry, "metadata").get("name")), set[str]()
        for version in rows(entry.get("versions")):
            for row in rows(version.get("resources")):
                plural = text(row.get("resource"))
                if plural not in seen:
                    seen.add(plural)
                    yield _kind(group, text(version.get("version")), plural, row)


def _kind(group: str, version: str, plural: str, row: JsonObject) -> Kind:
    verbs = row.get("verbs")
    return Kind(
        group,
        version,
        plural,
        text(part(row, "responseKind").get("kind")),
        row.get("scope") == "Namespaced",
        frozenset(map(text, verbs)) if isinstance(verbs, list) else frozenset(),
    )


def _stale(groups: Iterable[JsonObject]) -> Iterator[str]:
    for entry in groups:
        for version in rows(entry.get("versions")):
            if version.get("freshness") == "Stale":
                yield f"{part(entry, 'metadata').get('name')}/{version.get('version')}"
