"""The types and messages of the built-in kinds, read from data files when they are first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import cast

import msgspec

from gateway.model.json import JsonObject
from gateway.wire.kube.protobuf import MessageTable
from gateway.wire.kube.schema import Catalogue

KUBERNETES_VERSION = "v1.36.0"
"""The Kubernetes whose types and messages are served."""

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


class Shelf(Mapping[str, JsonObject]):
    """A table in files, one for each package of names; a file is read with the first name out of it."""

    def __init__(self, folder: str) -> None:
        self._files = resources.files("gateway.kube.data") / folder
        self._packages: dict[str, dict[str, JsonObject]] = {}

    def _package(self, name: str) -> dict[str, JsonObject]:
        known = self._packages.get(name)
        if known is None:
            file = self._files / f"{name.replace('/', '_')}.json"
            found = file.read_bytes() if name and file.is_file() else b"{}"
            self._packages[name] = known = msgspec.json.decode(found)
        return known

    def __getitem__(self, name: str) -> JsonObject:
        return self._package(name.rpartition(".")[0])[name]

    def __iter__(self) -> Iterator[str]:
        for file in sorted(self._files.iterdir(), key=lambda each: each.name):
            if file.name.endswith(".json"):
                yield from msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def catalogue() -> Catalogue:
    """The types of the built-in kinds."""
    zeros = (resources.files("gateway.kube.data") / "zeros.json").read_bytes()
    return Catalogue(Shelf("types"), msgspec.json.decode(zeros))


@cache
def protobuf_table() -> MessageTable:
    """Field numbers of the messages that clients send."""
    return cast("MessageTable", Shelf("protobuf"))
