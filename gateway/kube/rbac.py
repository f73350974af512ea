"""RBAC from the stored Roles and bindings: kept as an index that follows each change, read when first asked.

What somebody may do is worked out once and kept until any Role or binding changes. Roles with an
`aggregationRule` have the rules of the ClusterRoles that it selects, at once.
Source: Kubernetes "Using RBAC Authorization".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gateway.kube.auth import Access, User
from gateway.kube.authorizer import NO_OPINION, Decision, Held
from gateway.kube.client import EventType
from gateway.kube.storage import Storage
from gateway.kube.strategies import table
from gateway.kube.watch import Change, Key, Stored
from gateway.model.json import JsonObject
from gateway.wire.kube.names import quoted
from gateway.wire.kube.rules import Rule, read_rules, subject_text, subject_user
from gateway.wire.kube.selectors import LabelSelector, read_selector

GROUP = "rbac.authorization.k8s.io"
ROLES, CLUSTER_ROLES = f"roles.{GROUP}", f"clusterroles.{GROUP}"
BINDINGS, CLUSTER_BINDINGS = f"rolebindings.{GROUP}", f"clusterrolebindings.{GROUP}"
KINDS = frozenset({ROLES, CLUSTER_ROLES, BINDINGS, CLUSTER_BINDINGS})
MAX_USERS = 4_096
"""Callers whose rights are kept worked out; beyond it all are worked out anew."""

_Subject = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Role:
    """A Role's rules, or where a ClusterRole gathers them."""

    rules: tuple[Rule, ...]
    gathers: tuple[LabelSelector, ...] = ()
    labels: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """Who has which role. Shape: `subjects` by user or group, with their texts, in the object's order."""

    key: Key
    role_kind: str
    role_name: str
    subjects: tuple[tuple[_Subject, str], ...]

    def reason(self, user: User) -> str:
        """Why the binding's rules count for a user."""
        kind, name = "ClusterRoleBinding", self.key.name
        if self.key.namespace:
            kind, name = "RoleBinding", f"{name}/{self.key.namespace}"
        role = f"{self.role_kind} {quoted(self.role_name)}"
        whom = next((text for subject, text in self.subjects if _is(subject, user)), "")
        return f"RBAC: allowed by {kind} {quoted(name)} of {role} to {whom}"


@dataclass(frozen=True, slots=True)
class Grant:
    """The rules that one binding gives, or why it gives none."""

    binding: Binding
    rules: tuple[Rule, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Grants:
    """All that somebody has: everywhere, and in single namespaces."""

    everywhere: tuple[Grant, ...]
    inside: dict[str, tuple[Grant, ...]]

    def at(self, namespace: str) -> tuple[Grant, ...]:
        own = self.inside.get(namespace) if namespace else None
        return (*self.everywhere, *own) if own else self.everywhere


class Rbac:
    """Judge by Roles and bindings. Shape: `storage` is followed from now on."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._is_read = False
        self._roles: dict[Key, Role] = {}
        self._bindings: dict[Key, Binding] = {}
        self._of: dict[_Subject, dict[Key, None]] = {}
        self._users: dict[tuple[str, tuple[str, ...]], Grants] = {}
        self._gathered: dict[Key, tuple[Rule, ...]] = {}
        storage.listen(self._on_change)

    # --- questions --------------------------------------------------------------------------------

    def decide(self, user: User, access: Access) -> Decision:
        faults = []
        for grant in self._grants(user).at(access.namespace):
            if grant.fault:
                faults.append(grant.fault)
            elif _any_allows(grant.rules, access):
                return Decision(True, grant.binding.reason(user))
        return Decision(False, f"RBAC: {_joined(faults)}") if faults else NO_OPINION

    def held(self, user: User, namespace: str) -> Held:
        grants = self._grants(user).at(namespace)
        rules = tuple(rule for grant in grants for rule in grant.rules)
        return Held(rules, tuple(grant.fault for grant in grants if grant.fault))

    def role_rules(self, kind: str, namespace: str, name: str) -> tuple[Rule, ...] | None:
        """Return the rules of a `roleRef` of a binding in `namespace`; None where there is no such role."""
        self._read()
        is_cluster = kind == "ClusterRole"
        key = Key(CLUSTER_ROLES, "", name) if is_cluster else Key(ROLES, namespace, name)
        role = self._roles.get(key)
        return None if role is None else self._effective(key, role)

    # --- working out ------------------------------------------------------------------------------

    def _grants(self, user: User) -> Grants:
        self._read()
        key = (user.name, user.groups)
        known = self._users.get(key)
        if known is None:
            if len(self._users) >= MAX_USERS:
                self._users.clear()
            known = self._users[key] = self._work_out(user)
        return known

    def _work_out(self, user: User) -> Grants:
        keys: dict[Key, None] = {}
        for subject in (("user", user.name), *(("group", name) for name in user.groups)):
            keys.update(self._of.get(subject, {}))
        inside: dict[str, list[Grant]] = {}
        for key in sorted(keys, key=lambda each: (each.namespace, each.name)):
            inside.setdefault(key.namespace, []).append(self._grant(self._bindings[key]))
        everywhere = tuple(inside.pop("", ()))
        return Grants(everywhere, {place: tuple(grants) for place, grants in inside.items()})

    def _grant(self, binding: Binding) -> Grant:
        kind, name = binding.role_kind, binding.role_name
        if kind not in ("Role", "ClusterRole"):
            return Grant(binding, fault=f"unsupported role reference kind: {quoted(kind)}")
        rules = self.role_rules(kind, binding.key.namespace, name)
        if rules is None:
            return Grant(binding, fault=no_role(kind, name))
        return Grant(binding, rules)

    def _effective(self, key: Key, role: Role) -> tuple[Rule, ...]:
        if not role.gathers:
            return role.rules
        known = self._gathered.get(key)
        if known is None:
            found: dict[Rule, None] = {}
            for other in self._selected(key, role.gathers, {key}):
                found.update(dict.fromkeys(other.rules))
            known = self._gathered[key] = tuple(found)
        return known

    def _selected(
        self, key: Key, gathers: Sequence[LabelSelector], seen: set[Key]
    ) -> Iterator[Role]:
        """Yield the roles that are gathered, also through others that gather."""
        for other_key, other in sorted(self._roles.items(), key=lambda pair: pair[0].name):
            if other_key.kind != CLUSTER_ROLES or other_key in seen:
                continue
            if any(selector.matches(other.labels) for selector in gathers):
                seen.add(other_key)
                if other.gathers:
                    yield from self._selected(key, other.gathers, seen)
                else:
                    yield other

    # --- the index --------------------------------------------------------------------------------

    def _read(self) -> None:
        if self._is_read:
            return
        self._is_read = True
        for kind in sorted(KINDS):
            for stored in self._storage.all(kind):
                self._put(stored)

    def _on_change(self, change: Change) -> None:
        if not self._is_read or change.after.key.kind not in KINDS:
            return
        self._users.clear()
        self._gathered.clear()
        self._drop(change.after.key)
        if change.type is not EventType.DELETED:
            self._put(change.after)

    def _drop(self, key: Key) -> None:
        self._roles.pop(key, None)
        binding = self._bindings.pop(key, None)
        for subject, _ in binding.subjects if binding else ():
            keys = self._of.get(subject, {})
            keys.pop(key, None)
            if not keys:
                self._of.pop(subject, None)

    def _put(self, stored: Stored) -> None:
        key, item = stored.key, stored.object
        if key.kind in (ROLES, CLUSTER_ROLES):
            self._roles[key] = _role(item)
            return
        binding = self._bindings[key] = _binding(key, item)
        for subject, _ in binding.subjects:
            self._of.setdefault(subject, {})[key] = None


def no_role(kind: str, name: str) -> str:
    """What is said where a binding's role is not there."""
    return f"{kind.lower()}.{GROUP} {quoted(name)} not found"


def _role(item: JsonObject) -> Role:
    selectors = table(item, "aggregationRule").get("clusterRoleSelectors")
    gathers = tuple(
        read_selector(each)
        for each in (selectors if isinstance(selectors, list) else [])
        if isinstance(each, dict)
    )
    labels: JsonObject = {"metadata": {"labels": table(item, "metadata").get("labels")}}
    return Role(read_rules(item), gathers, labels)


def _binding(key: Key, item: JsonObject) -> Binding:
    role, subjects = table(item, "roleRef"), item.get("subjects")
    found = tuple(
        (whom, subject_text(subject, key.namespace))
        for subject in (subjects if isinstance(subjects, list) else [])
        if isinstance(subject, dict) and (whom := subject_user(subject, key.namespace)) is not None
    )
    return Binding(key, str(role.get("kind") or ""), str(role.get("name") or ""), found)


def _is(subject: _Subject, user: User) -> bool:
    kind, name = subject
    return name == user.name if kind == "user" else name in user.groups


def _any_allows(rules: Sequence[Rule], access: Access) -> bool:
    if not access.resource:
        return any(rule.allows_url(access.verb, access.path) for rule in rules)
    return any(
        rule.allows(access.verb, access.group, access.resource, access.subresource, access.name)
        for rule in rules
    )


def _joined(texts: Sequence[str]) -> str:
    unique = list(dict.fromkeys(texts))
    return unique[0] if len(unique) == 1 else "[" + ", ".join(unique) + "]"
