"""What a served kind is: its names, scope, verbs, type and columns, as one value.

Discovery, OpenAPI, tables, storage and HTTP read this; serving a further kind is adding a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.model.json import JsonObject
from gateway.wire.kube.schema import ANYTHING, Schema

STANDARD_VERBS = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; priority above 0 shows with `-o wide` only."""

    name: str
    type: str = "string"
    path: str = ""
    priority: int = 0
    format: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where a kind keeps what `scale` shows, as JSON paths from the root of the object.

    Shape:  `selector` may lead to a label selector, to a map of labels or to a text; "" where there is none.
    """

    spec: str = ".spec.replicas"
    status: str = ".status.replicas"
    selector: str = ".spec.selector"


@dataclass(frozen=True, slots=True)
class Subresource:
    """A part of an object, or something done with it, that has a path of its own."""

    name: str
    kind: str
    verbs: tuple[str, ...] = ("get", "patch", "update")
    group: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a kind shows what another kind stores.

    Shape:  `home` is the group/version that the stored form has, under the same plural.
    """

    home: str
    storage_key: str
    shown: Callable[[JsonObject], JsonObject]
    kept: Callable[[JsonObject], JsonObject]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResourceType:
    """One kind in one version.

    Shape:  `storage_key` names what is stored once for all versions of a kind; `type_name` names its type in
            the catalogue for built-in kinds; `is_custom` for custom resources, which take no strategic merge;
            `counts_generation` where spec and status are apart; `fields` maps selectable fields to paths;
            `is_virtual` for kinds that are answered and never stored (reviews); `scale` for kinds with
            replicas, which have the subresource of that name; `view` for a second form of another kind.
    """

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    namespaced: bool
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = STANDARD_VERBS
    schema: Schema = ANYTHING
    type_name: str = ""
    columns: tuple[Column, ...] = ()
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    subresources: tuple[Subresource, ...] = ()
    scale: ScalePaths | None = None
    is_custom: bool = False
    counts_generation: bool = True
    is_virtual: bool = False
    view: View | None = None

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage_key(self) -> str:
        if self.view is not None:
            return self.view.storage_key
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def collection_kind(self) -> str:
        return self.list_kind or f"{self.kind}List"

    @property
    def has_status(self) -> bool:
        return any(sub.name == "status" for sub in self.subresources)

    def subresource(self, name: str) -> Subresource | None:
        return next((sub for sub in self.subresources if sub.name == name), None)


class Registry:
    """The kinds that are served now; custom resource definitions add and remove some."""

    def __init__(self, types: Iterable[ResourceType] = ()) -> None:
        self._types: dict[tuple[str, str], ResourceType] = {}
        self.revision = 0
        for item in types:
            self.add(item)

    def add(self, item: ResourceType) -> None:
        self._types[item.group_version, item.plural] = item
        self.revision += 1

    def remove(self, group_version: str, plural: str) -> None:
        if self._types.pop((group_version, plural), None) is not None:
            self.revision += 1

    def has_builtin(self, group: str, plural: str) -> bool:
        """True for a kind of ours, in whatever version: no definition may take its place."""
        return any(
            item.group == group and item.plural == plural and not item.is_custom for item in self
        )

    def find(self, group_version: str, plural: str) -> ResourceType | None:
        return self._types.get((group_version, plural))

    def home(self, item: ResourceType) -> ResourceType:
        """The kind that a view is stored as; the kind itself where it is no view."""
        return item if item.view is None else self._types[item.view.home, item.plural]

    def of_kind(self, group_version: str, kind: str) -> ResourceType | None:
        return next(
            (item for item in self if item.group_version == group_version and item.kind == kind),
            None,
        )

    def of_group_kind(self, group: str, kind: str) -> ResourceType | None:
        """Any version of a kind, as owner references name it."""
        return next((item for item in self if item.group == group and item.kind == kind), None)

    def __iter__(self) -> Iterator[ResourceType]:
        return iter(tuple(self._types.values()))

    def group_versions(self) -> tuple[str, ...]:
        """Served group/versions, each once, in the order in which they came."""
        return tuple(dict.fromkeys(item.group_version for item in self))

    def has_group(self, group: str) -> bool:
        return any(item.group == group for item in self)
