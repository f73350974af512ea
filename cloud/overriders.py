"""What is different about a workload for one target of an EdgeApplication. Pure.

Overriders are applied in one order: replicas, images, environment, command, arguments, resources; those of
one kind one after another. A rule for a container that a manifest has not, or for replicas of a kind that has
none, changes nothing: one set of rules is for all manifests. Source: EdgeApplication v1alpha1; KubeEdge
reference, section 20.2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from cloud.imagenames import DIGEST, ImageName
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping, text

T = TypeVar("T")
V = TypeVar("V")

WORKLOADS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): ("spec",),
    ("apps", "Deployment"): ("spec", "template", "spec"),
    ("apps", "StatefulSet"): ("spec", "template", "spec"),
    ("apps", "DaemonSet"): ("spec", "template", "spec"),
    ("apps", "ReplicaSet"): ("spec", "template", "spec"),
    ("batch", "Job"): ("spec", "template", "spec"),
}
"""(group, kind) of what runs containers -> where its Pods are described."""
SCALABLE = frozenset({("apps", "Deployment"), ("apps", "StatefulSet"), ("apps", "ReplicaSet")})


def group_kind(manifest: JsonObject) -> tuple[str, str]:
    """Return the API group ("" for the core) and kind of an object."""
    group, slash, _ = text(manifest.get("apiVersion")).partition("/")
    return (group if slash else ""), text(manifest.get("kind"))


def pod_spec(manifest: JsonObject) -> JsonObject:
    """Return the part of a workload that describes its Pods; a new empty one where it has none."""
    found = manifest
    for name in WORKLOADS[group_kind(manifest)]:
        inner = found.get(name)
        if not isinstance(inner, dict):
            inner = found[name] = {}
        found = inner
    return found


def overridden(manifest: JsonObject, overriders: JsonObject) -> JsonObject:
    """Return a copy of a workload as one target wants it.

    Errors: BadRequest, naming the rule that cannot be applied.
    """
    changed = copy.deepcopy(manifest)
    if group_kind(changed) not in WORKLOADS:
        return changed
    for name, apply in _ORDER:
        rules = overriders.get(name)
        if rules is not None:
            apply(changed, rules, name)
    return changed


# --- the overriders, each with the path of its rules ------------------------------------------------


def _replicas(manifest: JsonObject, value: Json, path: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRequest(f"{path}: expected a number from 0, got {value!r}")
    if group_kind(manifest) in SCALABLE:
        spec = manifest.setdefault("spec", {})
        if isinstance(spec, dict):
            spec["replicas"] = value


def _images(manifest: JsonObject, rules: Json, path: str) -> None:
    for at, rule in _rules(rules, path):
        predicate = rule.get("predicate")
        if predicate is None:
            for container in _containers(manifest):
                if "image" in container:
                    container["image"] = _image(text(container["image"]), rule, at)
            continue
        holder, name = _find(manifest, text(mapping(predicate).get("path")), f"{at}.predicate.path")
        holder[name] = _image(text(holder[name]), rule, at)


def _environment(manifest: JsonObject, rules: Json, path: str) -> None:
    for at, rule in _rules(rules, path):
        values = {text(entry.get("name")): entry for _, entry in _rules(rule.get("value"), at)}
        for container in _named(manifest, rule):
            old = [entry for _, entry in _rules(container.get("env"), f"{at}: env")]
            new = _choose(_ENVIRONMENT, rule, at)(old, values)
            _put(container, "env", [copy.deepcopy(entry) for entry in new])


def _words(manifest: JsonObject, rules: Json, path: str, field: str) -> None:
    for at, rule in _rules(rules, path):
        values = _texts(rule.get("value"), f"{at}.value")
        for container in _named(manifest, rule):
            old = _texts(container.get(field), f"{at}: {field}")
            _put(container, field, [*_choose(_WORDS, rule, at)(old, values)])


def _command(manifest: JsonObject, rules: Json, path: str) -> None:
    _words(manifest, rules, path, "command")


def _arguments(manifest: JsonObject, rules: Json, path: str) -> None:
    _words(manifest, rules, path, "args")


def _resources(manifest: JsonObject, rules: Json, path: str) -> None:
    for _, rule in _rules(rules, path):
        for container in _named(manifest, rule):
            container["resources"] = copy.deepcopy(mapping(rule.get("value")))


_ORDER: tuple[tuple[str, Callable[[JsonObject, Json, str], None]], ...] = (
    ("replicas", _replicas),
    ("imageOverriders", _images),
    ("envOverriders", _environment),
    ("commandOverriders", _command),
    ("argsOverriders", _arguments),
    ("resourcesOverriders", _resources),
)


# --- operators --------------------------------------------------------------------------------------

Entries = list[JsonObject]


def _add_variables(old: Entries, values: Mapping[str, JsonObject]) -> Entries:
    """The last one of a name counts, so an earlier one goes."""
    return [*_remove_variables(old, values), *values.values()]


def _remove_variables(old: Entries, values: Mapping[str, JsonObject]) -> Entries:
    return [entry for entry in old if text(entry.get("name")) not in values]


def _replace_variables(old: Entries, values: Mapping[str, JsonObject]) -> Entries:
    known = {text(entry.get("name")) for entry in old}
    kept = [values.get(text(entry.get("name")), entry) for entry in old]
    return [*kept, *(entry for name, entry in values.items() if name not in known)]


_ENVIRONMENT: Mapping[str, Callable[[Entries, Mapping[str, JsonObject]], Entries]] = {
    "add": _add_variables,
    "remove": _remove_variables,
    "replace": _replace_variables,
}

_WORDS: Mapping[str, Callable[[list[str], list[str]], list[str]]] = {
    "add": lambda old, values: [*old, *values],
    "remove": lambda old, values: [word for word in old if word not in values],
}


def _image(name: str, rule: JsonObject, at: str) -> str:
    """Return an image's name after one rule."""
    value, operator = text(rule.get("value")), text(rule.get("operator"))
    change = _COMPONENTS.get(text(rule.get("component")))
    if change is None:
        raise BadRequest(f"{at}.component: expected Registry, Repository or Tag")
    if operator not in ("add", "remove", "replace"):
        raise BadRequest(f"{at}.operator: {operator[:50]!r} is not for images")
    if not value and operator != "remove":
        raise BadRequest(f"{at}.value: must not be empty")
    try:
        return str(change(ImageName.parse(name), operator, value).checked())
    except BadRequest as error:
        raise BadRequest(f"{at}: {error.message} (the image was {name[:200]!r})") from error


def _part(old: str, operator: str, value: str) -> str:
    return {"add": old + value, "replace": value, "remove": ""}[operator]


def _registry(image: ImageName, operator: str, value: str) -> ImageName:
    return replace(image, registry=_part(image.registry, operator, value))


def _repository(image: ImageName, operator: str, value: str) -> ImageName:
    return replace(image, repository=_part(image.repository, operator, value))


def _tag(image: ImageName, operator: str, value: str) -> ImageName:
    """A tag takes the digest's place and the other way round: both would say which image it is."""
    if operator == "add" and image.digest and not image.tag:
        raise BadRequest("nothing can be added to a digest")
    bare = value.removeprefix("@")
    if operator == "replace" and DIGEST.fullmatch(bare):
        return replace(image, tag="", digest=bare)
    return replace(image, tag=_part(image.tag, operator, value), digest="")


_COMPONENTS: Mapping[str, Callable[[ImageName, str, str], ImageName]] = {
    "Registry": _registry,
    "Repository": _repository,
    "Tag": _tag,
}


# --- reading ----------------------------------------------------------------------------------------


def _choose(
    table: Mapping[str, Callable[[list[T], V], list[T]]], rule: JsonObject, at: str
) -> Callable[[list[T], V], list[T]]:
    operator = text(rule.get("operator"))
    if operator not in table:
        raise BadRequest(f"{at}.operator: expected {' or '.join(table)}, got {operator[:50]!r}")
    return table[operator]


def _rules(value: Json, path: str) -> Iterator[tuple[str, JsonObject]]:
    """Yield the entries of a list, each with where it stands."""
    if value is None:
        return
    if not isinstance(value, list):
        raise BadRequest(f"{path}: expected a list")
    for at, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise BadRequest(f"{path}[{at}]: expected an object")
        yield f"{path}[{at}]", entry


def _texts(value: Json, path: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{path}: expected a list of texts")
    found = [word for word in value if isinstance(word, str)]
    if len(found) != len(value):
        raise BadRequest(f"{path}: expected a list of texts")
    return found


def _containers(manifest: JsonObject) -> list[JsonObject]:
    found = pod_spec(manifest).get("containers")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _named(manifest: JsonObject, rule: JsonObject) -> list[JsonObject]:
    """Return the containers that a rule is for."""
    name = rule.get("containerName")
    return [each for each in _containers(manifest) if each.get("name") == name]


def _put(container: JsonObject, field: str, value: list[Json]) -> None:
    """Set a list; one that is empty and was not there stays away."""
    if value or field in container:
        container[field] = value


def _find(manifest: JsonObject, pointer: str, path: str) -> tuple[JsonObject, str]:
    """Return the object that holds what a JSON pointer leads to, and its name there."""
    parts = pointer.split("/")[1:] or [""]
    *steps, name = [part.replace("~1", "/").replace("~0", "~") for part in parts]
    found: Json = manifest
    for step in steps:
        found = _child(found, step)
    if not isinstance(found, dict) or not isinstance(found.get(name), str):
        raise BadRequest(f"{path}: {pointer[:200]!r} leads to no text")
    return found, name


def _child(parent: Json, step: str) -> Json:
    if isinstance(parent, dict):
        return parent.get(step)
    if isinstance(parent, list) and step.isascii() and step.isdigit() and int(step) < len(parent):
        return parent[int(step)]
    return None
