"""Which kind stands behind a plural: lists and deletions must say it, and the API's items leave it out."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from gateway.errors import NotFound, Undeliverable
from gateway.kube.client import KubeClient

MAX_KNOWN = 1_000
"""Group versions that are remembered."""


class _Resource(Struct, frozen=True):
    name: str
    kind: str = ""


class _Resources(Struct, frozen=True):
    resources: list[_Resource] = []


_read = msgspec.json.Decoder(_Resources)


class ApiKinds:
    """The cluster's discovery, asked once per group version; again for a plural that is not known."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._known: dict[str, dict[str, str]] = {}

    async def kind(self, group_version: str, plural: str) -> str:
        """Return the kind of a plural, `ConfigMap` of `configmaps`. Errors: NotFound; Undeliverable."""
        kind = self._known.get(group_version, {}).get(plural)
        if kind is None:
            kind = (await self._ask(group_version)).get(plural)
        if not kind:
            raise NotFound("the server could not find the requested resource")
        return kind

    async def _ask(self, group_version: str) -> dict[str, str]:
        root = "/apis/" if "/" in group_version else "/api/"
        answer = await self._kube.read(root + group_version)
        try:
            resources = _read.decode(answer).resources
        except msgspec.DecodeError as error:
            raise Undeliverable(f"the API's discovery cannot be read: {error}") from error
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[group_version] = {each.name: each.kind for each in resources}
        return self._known[group_version]
