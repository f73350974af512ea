"""Custom resource definitions become served kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gateway.kube.builtin import DEFINITIONS
from gateway.kube.client import EventType
from gateway.kube.hooks import Hooks, Opinion, Review
from gateway.kube.strategies import table
from gateway.kube.typedata import OBJECT_META, catalogue
from gateway.kube.watch import Change
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.resources import Column, Registry, ResourceType, ScalePaths, Subresource
from gateway.wire.kube.schema import Schema, read_schema
from gateway.wire.kube.structural import RULES, has_rules

_TEXT = Schema(type="string")


def kinds_of(definition: JsonObject) -> Iterator[ResourceType]:
    """The kinds that a definition serves, one per served version.

    Errors: BadRequest for a schema that cannot be read.
    """
    spec = table(definition, "spec")
    versions = spec.get("versions")
    for row in versions if isinstance(versions, list) else []:
        if isinstance(row, dict) and row.get("served") is True:
            yield _kind(spec, row)


def _kind(spec: JsonObject, row: JsonObject) -> ResourceType:
    names = table(spec, "names")
    return ResourceType(
        group=str(spec.get("group")),
        version=str(row.get("name")),
        plural=str(names.get("plural")),
        singular=str(names.get("singular") or ""),
        kind=str(names.get("kind")),
        list_kind=str(names.get("listKind") or ""),
        namespaced=spec.get("scope") == "Namespaced",
        short_names=_texts(names.get("shortNames")),
        categories=_texts(names.get("categories")),
        schema=_root(table(table(row, "schema"), "openAPIV3Schema")),
        columns=tuple(_columns(row.get("additionalPrinterColumns"))),
        fields=dict(_selectable(row.get("selectableFields"))),
        subresources=tuple(_subresources(table(row, "subresources"), str(names.get("kind")))),
        scale=_scale(table(row, "subresources")),
        is_custom=True,
    )


def _root(source: JsonObject) -> Schema:
    """The type of whole objects: metadata is always the common one."""
    schema = read_schema(source)
    fields = dict(schema.properties)
    fields |= {"apiVersion": _TEXT, "kind": _TEXT, "metadata": catalogue().get(OBJECT_META)}
    return replace(schema, properties=fields)


def _texts(value: Json) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _columns(rows: Json) -> Iterator[Column]:
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            priority = row.get("priority")
            yield Column(
                str(row.get("name")),
                str(row.get("type")),
                str(row.get("jsonPath")),
                priority if isinstance(priority, int) else 0,
                str(row.get("format") or ""),
                str(row.get("description") or ""),
            )


def _selectable(rows: Json) -> Iterator[tuple[str, tuple[str, ...]]]:
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            path = str(row.get("jsonPath")).removeprefix(".")
            yield path, tuple(path.split("."))


def _subresources(rows: JsonObject, kind: str) -> Iterator[Subresource]:
    if "status" in rows:
        yield Subresource("status", kind)
    if "scale" in rows:
        yield Subresource("scale", "Scale", group="autoscaling", version="v1")


def _scale(rows: JsonObject) -> ScalePaths | None:
    scale = rows.get("scale")
    if not isinstance(scale, dict):
        return None
    return ScalePaths(
        str(scale.get("specReplicasPath")),
        str(scale.get("statusReplicasPath")),
        str(scale.get("labelSelectorPath") or ""),
    )


async def rules_are_not_evaluated(review: Review) -> Opinion:
    """Warn of rules in CEL: they are stored, and nobody judges objects by them."""
    versions = table(review.item, "spec").get("versions")
    if review.wants_warnings and has_rules(versions):
        return Opinion(warnings=(f"{RULES} are stored, but not evaluated",))
    return Opinion()


class Definitions:
    """Keeps the registry in step with the stored definitions."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def install(self, definition: JsonObject) -> None:
        """Serve what a definition says; a built-in kind stays as it is. Errors: BadRequest."""
        for kind in kinds_of(definition):
            if not self._registry.has_builtin(kind.group, kind.plural):
                self._registry.add(kind)

    def register(self, hooks: Hooks) -> None:
        """Have a say about definitions that are written."""
        hooks.judge(DEFINITIONS, "builtin", self._is_of_a_builtin)
        hooks.judge(DEFINITIONS, "rules", rules_are_not_evaluated)

    async def _is_of_a_builtin(self, review: Review) -> Opinion:
        """Refuse a definition of a built-in kind: its end would be that of all objects of the kind."""
        spec = table(review.item, "spec")
        group, plural = str(spec.get("group")), str(table(spec, "names").get("plural"))
        if self._registry.has_builtin(group, plural):
            return Opinion(refusal=f"{plural}.{group} is a built-in kind")
        return Opinion()

    def on_change(self, change: Change) -> None:
        if change.after.key.kind != DEFINITIONS:
            return
        if change.before is not None:
            for kind in kinds_of(change.before.object):
                if not self._registry.has_builtin(kind.group, kind.plural):
                    self._registry.remove(kind.group_version, kind.plural)
        if change.type is not EventType.DELETED:
            self.install(change.after.object)
