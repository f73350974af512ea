"""Rules of RBAC: what one allows, what others cover, and how a rule is written in messages. Pure.

Source: Kubernetes "Using RBAC Authorization".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import quoted

ALL = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as its object has it.

    Shape:  `resources` may hold `*`, `pods/log`, `*/scale`; `urls` end in `*` for everything below.
    """

    verbs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()

    def allows(
        self, verb: str, group: str, resource: str, subresource: str = "", name: str = ""
    ) -> bool:
        """True when the rule lets somebody do this to an object, or to any (`name` empty)."""
        return (
            _has(self.verbs, verb)
            and _has(self.groups, group)
            and _names_resource(self.resources, resource, subresource)
            and (not self.names or name in self.names)
        )

    def allows_url(self, verb: str, path: str) -> bool:
        """True when the rule lets somebody do this to a path that is no object's."""
        return _has(self.verbs, verb) and any(_covers_url(url, path) for url in self.urls)

    def covers(self, part: Rule) -> bool:
        """True when who has this rule has the elementary `part` of one too."""
        return (
            (ALL in self.verbs or set(part.verbs) <= set(self.verbs))
            and (ALL in self.groups or set(part.groups) <= set(self.groups))
            and all(_covers_resource(self.resources, each) for each in part.resources)
            and all(any(_covers_url(own, url) for own in self.urls) for url in part.urls)
            and (not self.names or (bool(part.names) and set(part.names) <= set(self.names)))
        )

    def parts(self) -> Iterator[Rule]:
        """Yield the rule's elements: one verb on one resource (of one name), or on one URL."""
        for group in self.groups:
            for resource in self.resources:
                for verb in self.verbs:
                    for names in _singles(self.names):
                        yield Rule((verb,), (group,), (resource,), names)
        for url in self.urls:
            for verb in self.verbs:
                yield Rule((verb,), urls=(url,))

    @property
    def text(self) -> str:
        """The rule as messages about escalation write it."""
        fields = (
            ("APIGroups", self.groups),
            ("Resources", self.resources),
            ("NonResourceURLs", self.urls),
            ("ResourceNames", self.names),
            ("Verbs", self.verbs),
        )
        return "{" + ", ".join(f"{name}:{go_list(each)}" for name, each in fields if each) + "}"


EVERYTHING = (Rule((ALL,), (ALL,), (ALL,)), Rule((ALL,), urls=(ALL,)))


def _singles(values: Sequence[str]) -> list[tuple[str, ...]]:
    return [(each,) for each in values] if values else [()]


def _has(values: Sequence[str], value: str) -> bool:
    return ALL in values or value in values


def _names_resource(resources: Sequence[str], resource: str, subresource: str) -> bool:
    if ALL in resources:
        return True
    if not subresource:
        return resource in resources
    return f"{resource}/{subresource}" in resources or f"*/{subresource}" in resources


def _covers_resource(resources: Sequence[str], wanted: str) -> bool:
    if ALL in resources or wanted in resources:
        return True
    _, slash, subresource = wanted.partition("/")
    return bool(slash) and f"*/{subresource}" in resources


def _covers_url(own: str, path: str) -> bool:
    return own == path or (own.endswith(ALL) and path.startswith(own.rstrip(ALL)))


def go_list(values: Iterable[str]) -> str:
    """A list as messages write it: `["a" "b"]`."""
    return "[" + " ".join(quoted(value) for value in values) + "]"


# --- from and to objects --------------------------------------------------------------------------

_FIELDS = {
    "verbs": "verbs",
    "groups": "apiGroups",
    "resources": "resources",
    "names": "resourceNames",
    "urls": "nonResourceURLs",
}


def read_rules(item: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Return the rules of a Role or ClusterRole."""
    rules = item.get("rules")
    return tuple(
        Rule(**{own: _texts(rule.get(name)) for own, name in _FIELDS.items()})
        for rule in (rules if isinstance(rules, list) else ())
        if isinstance(rule, dict)
    )


def rule_object(rule: Rule) -> JsonObject:
    """Return a rule as objects and reviews have it."""
    values: dict[str, Json] = {
        name: list(getattr(rule, own)) for own, name in _FIELDS.items() if getattr(rule, own)
    }
    return values


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(each for each in value if isinstance(each, str))


# --- escalation -----------------------------------------------------------------------------------


def missing(held: Sequence[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """Return what of `wanted` somebody who holds `held` does not have, as short as it can be written."""
    left = [
        part
        for rule in wanted
        for part in rule.parts()
        if not any(own.covers(part) for own in held)
    ]
    merged: dict[tuple[tuple[str, ...], ...], Rule] = {}
    for part in left:
        place = (
            part.groups,
            part.resources,
            part.names,
            part.urls,
            part.verbs if part.urls else (),
        )
        known = merged.get(place)
        verbs = part.verbs if known is None or part.urls else (*known.verbs, *part.verbs)
        merged[place] = Rule(verbs, part.groups, part.resources, part.names, part.urls)
    return sorted(merged.values(), key=lambda rule: rule.text)


# --- subjects -------------------------------------------------------------------------------------

SERVICE_ACCOUNT = "system:serviceaccount:"


def subject_user(subject: Mapping[str, Any], namespace: str) -> tuple[str, str] | None:
    """Return (`user` or `group`, name) that a binding's subject means; None for nobody.

    Shape:  `namespace` is the binding's, "" for a ClusterRoleBinding.
    """
    name = str(subject.get("name") or "")
    match subject.get("kind"):
        case "User":
            return "user", name
        case "Group":
            return "group", name
        case "ServiceAccount":
            place = str(subject.get("namespace") or "") or namespace
            return ("user", f"{SERVICE_ACCOUNT}{place}:{name}") if place else None
    return None


def subject_text(subject: Mapping[str, Any], namespace: str) -> str:
    """A subject as reasons of decisions write it."""
    kind, name = subject.get("kind"), str(subject.get("name") or "")
    if kind == "ServiceAccount":
        name = f"{name}/{subject.get('namespace') or namespace}"
    return f"{kind} {quoted(name)}"
