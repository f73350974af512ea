"""Which kind stands behind a plural, and the other way round: lists must say the kind, paths the plural."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from gateway.errors import NotFound, Undeliverable
from gateway.kube.client import KubeClient

MAX_KNOWN = 1_000
"""Group versions that are remembered."""
UNKNOWN = "the server could not find the requested resource"


class _Resource(Struct, frozen=True):
    name: str
    kind: str = ""
    namespaced: bool = False


class _Resources(Struct, frozen=True):
    resources: list[_Resource] = []


_read = msgspec.json.Decoder(_Resources)


class ApiKinds:
    """The cluster's discovery, asked once per group version; again for a plural that is not known."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._known: dict[str, dict[str, _Resource]] = {}

    async def kind(self, group_version: str, plural: str) -> str:
        """Return the kind of a plural, `ConfigMap` of `configmaps`. Errors: NotFound; Undeliverable."""
        found = self._known.get(group_version, {}).get(plural)
        if found is None:
            found = (await self._ask(group_version)).get(plural)
        if found is None or not found.kind:
            raise NotFound(UNKNOWN)
        return found.kind

    async def plural(self, group_version: str, kind: str) -> tuple[str, bool]:
        """Return the plural of a kind, and whether it is namespaced. Errors: NotFound; Undeliverable."""
        found = _of_kind(self._known.get(group_version, {}), kind)
        if found is None:
            found = _of_kind(await self._ask(group_version), kind)
        if found is None:
            raise NotFound(UNKNOWN)
        return found.name, found.namespaced

    async def _ask(self, group_version: str) -> dict[str, _Resource]:
        root = "/apis/" if "/" in group_version else "/api/"
        try:
            answer = await self._kube.read(root + group_version)
        except NotFound as error:  # of a path, and API servers have no more to say about those
            raise NotFound(UNKNOWN) from error
        try:
            resources = _read.decode(answer).resources
        except msgspec.DecodeError as error:
            raise Undeliverable(f"the API's discovery cannot be read: {error}") from error
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[group_version] = {each.name: each for each in resources}
        return self._known[group_version]


def _of_kind(known: Mapping[str, _Resource], kind: str) -> _Resource | None:
    found = (each for each in known.values() if each.kind == kind and "/" not in each.name)
    return next(found, None)
