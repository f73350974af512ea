"""How the row of a built-in kind is written: what the tables of this package share."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.kube.typedata import catalogue
from gateway.wire.kube.resources import (
    STANDARD_VERBS,
    ResourceType,
    ScalePaths,
    Subresource,
    View,
)

ALL = ("all",)
STATUS, SCALE = "status", "scale"
_SCALE = Subresource(SCALE, "Scale", group="autoscaling", version="v1")


def row(
    group_version: str,
    plural: str,
    kind: str,
    *,
    namespaced: bool = True,
    short: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    verbs: tuple[str, ...] = STANDARD_VERBS,
    status: bool = False,
    scale: ScalePaths | None = None,
    more: tuple[Subresource, ...] = (),
    fields: Mapping[str, tuple[str, ...]] | None = None,
    generation: bool = False,
    type_name: str = "",
    view: View | None = None,
) -> ResourceType:
    """A kind of a group.

    Shape:  `generation` where changes of what is wanted are counted; `more` are subresources beside `status`
            and `scale`; `type_name` where the type's name does not follow from group and kind.
    """
    group, _, version = group_version.rpartition("/")
    name = type_name or f"io.k8s.api.{group.partition('.')[0] or 'core'}.{version}.{kind}"
    own = ((Subresource(STATUS, kind),) if status else ()) + ((_SCALE,) if scale else ())
    return ResourceType(
        group=group,
        version=version,
        plural=plural,
        singular=kind.lower(),
        kind=kind,
        namespaced=namespaced,
        short_names=short,
        categories=categories,
        verbs=verbs,
        schema=catalogue().get(name),
        type_name=name,
        fields=fields or {},
        subresources=tuple(sorted((*own, *more), key=lambda sub: sub.name)),
        scale=scale,
        counts_generation=generation,
        view=view,
    )


def review(group_version: str, plural: str, kind: str, *, namespaced: bool = False) -> ResourceType:
    """A question: it is answered at once and never stored."""
    group, _, version = group_version.rpartition("/")
    name = f"io.k8s.api.{group.partition('.')[0] or 'core'}.{version}.{kind}"
    return ResourceType(
        group=group,
        version=version,
        plural=plural,
        singular=kind.lower(),
        kind=kind,
        namespaced=namespaced,
        verbs=("create",),
        schema=catalogue().get(name),
        type_name=name,
        counts_generation=False,
        is_virtual=True,
    )


def paths(*labels: str) -> dict[str, tuple[str, ...]]:
    """Selectable fields that are named after their paths."""
    return {label: tuple(label.split(".")) for label in labels}
