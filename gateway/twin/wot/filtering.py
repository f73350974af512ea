"""A Thing Description reduced to what the caller may use.

A property needs READ on its `thing:` resource, without WRITE it is read-only; an action needs WRITE, an event
READ on its `message:` resource; a link to a feature needs READ somewhere in it.
Source: Ditto 3.9, WoT integration (permission filtering).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.model.json import Json, JsonObject, Pointer
from gateway.twin.policy import READ, WRITE, Permissions
from gateway.twin.wot.description import Subject, item_href
from gateway.twin.wot.model import ThingModel

_READ_OPS: Final = frozenset(
    ("readallproperties", "readmultipleproperties", "observeallproperties")
)
_WRITE_OPS: Final = frozenset(("writeallproperties", "writemultipleproperties"))
_NONE: Final[frozenset[str]] = frozenset()


def may_see(subject: Subject, permissions: Permissions) -> bool:
    """True for a caller with any permission on the thing or feature, or on its messages."""
    path = _root(subject)
    return any(
        permissions.partial(kind, path, mask)
        for kind in ("thing", "message")
        for mask in (READ, WRITE)
    )


def reduced(
    td: JsonObject, subject: Subject, model: ThingModel, permissions: Permissions
) -> JsonObject:
    """The description without what these permissions do not reach."""
    root = _root(subject)
    made = dict(td)
    properties = _properties(td, subject, model, permissions)
    _put(made, "properties", properties)
    for kind, box, mask in (("actions", "inbox", WRITE), ("events", "outbox", READ)):
        _put(made, kind, _kept(td.get(kind), _may(permissions, (*root, box, "messages"), mask)))
    is_writable = any(
        permissions.unrestricted("thing", _path_of(subject, model, name), WRITE)
        for name in properties or ()
    )
    _put(made, "forms", _forms(td.get("forms"), bool(properties), is_writable))
    if subject.feature_id is None:
        _put(made, "links", _links(td.get("links"), model, permissions))
    return made


def _root(subject: Subject) -> Pointer:
    return () if subject.feature_id is None else ("features", subject.feature_id)


def _put(td: JsonObject, member: str, value: JsonObject | list[Json] | None) -> None:
    """What became empty goes; what was never there stays away."""
    if value:
        td[member] = value
    else:
        td.pop(member, None)


def _may(permissions: Permissions, box: Pointer, mask: int) -> Callable[[str], bool]:
    return lambda name: permissions.unrestricted("message", (*box, name), mask)


def _kept(affordances: Json, may: Callable[[str], bool]) -> JsonObject | None:
    if not isinstance(affordances, dict):
        return None
    return {name: one for name, one in affordances.items() if may(name)}


def _properties(
    td: JsonObject, subject: Subject, model: ThingModel, permissions: Permissions
) -> JsonObject | None:
    given = td.get("properties")
    if not isinstance(given, dict):
        return None
    made: JsonObject = {}
    for name, one in given.items():
        path = _path_of(subject, model, name)
        if not permissions.unrestricted("thing", path, READ):
            continue
        is_writable = permissions.unrestricted("thing", path, WRITE)
        made[name] = one if is_writable or not isinstance(one, dict) else _read_only(one)
    return made


def _path_of(subject: Subject, model: ThingModel, name: str) -> Pointer:
    """The `thing:` resource of a property."""
    head = "attributes" if subject.feature_id is None else "properties"
    category = model.categories.get(name)
    below = (head, name) if category is None else (head, category, name)
    return (*_root(subject), *below)


def _read_only(affordance: Mapping[str, Json]) -> JsonObject:
    forms = affordance.get("forms")
    given = forms if isinstance(forms, list) else []
    kept = [form for form in given if "writeproperty" not in _ops(form)]
    return {**affordance, "readOnly": True, "forms": kept}


def _ops(form: Json) -> list[str]:
    op = form.get("op") if isinstance(form, dict) else None
    return [str(one) for one in op] if isinstance(op, list) else [str(op)]


def _forms(forms: Json, is_readable: bool, is_writable: bool) -> list[Json] | None:
    if not isinstance(forms, list):
        return None
    gone = (_NONE if is_readable else _READ_OPS) | (_NONE if is_writable else _WRITE_OPS)
    return [form for form in forms if gone.isdisjoint(_ops(form))]


def _links(links: Json, model: ThingModel, permissions: Permissions) -> list[Json] | None:
    """Without those to features that the caller may read nothing of."""
    if not isinstance(links, list):
        return None
    names = {item_href(one.instance_name): one.instance_name for one in model.submodels}
    kept: list[Json] = []
    for link in links:
        href = link.get("href") if isinstance(link, dict) and link.get("rel") == "item" else None
        name = names.get(href) if isinstance(href, str) else None
        if name is None or permissions.partial("thing", ("features", name), READ):
            kept.append(link)
    return kept
