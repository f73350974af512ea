"""Nobody grants what he does not have: judges writes of Roles and bindings.

Verb `escalate` on a role, or `bind` on the role of a binding, allows it; else the writer has to hold every
rule himself. Source: Kubernetes "Privilege escalation prevention and bootstrapping".
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import NotFound
from gateway.kube.auth import MASTERS, Access, User
from gateway.kube.authorizer import Authorizer
from gateway.kube.hooks import Write
from gateway.kube.rbac import CLUSTER_BINDINGS, CLUSTER_ROLES, GROUP, ROLES, Rbac, no_role
from gateway.kube.strategies import table
from gateway.model.json import JsonObject
from gateway.wire.kube.names import quoted
from gateway.wire.kube.rules import EVERYTHING, Rule, go_list, missing, read_rules
from gateway.wire.kube.status import forbidden


class Escalation:
    """Guard of RBAC objects. Shape: `authorizer` says what the writer holds."""

    def __init__(self, authorizer: Authorizer, rbac: Rbac) -> None:
        self._authorizer = authorizer
        self._rbac = rbac

    def __call__(self, write: Write) -> None:
        """Judge a write. Errors: Forbidden; NotFound for a binding whose role is not there."""
        user = write.user
        if user is None or MASTERS in user.groups or _is_the_same(write):
            return
        if write.resource.storage_key in (ROLES, CLUSTER_ROLES):
            why = self._role(user, write)
        else:
            why = self._binding(user, write)
        if why:
            raise forbidden(write.resource.plural, GROUP, write.name, why)

    def _role(self, user: User, write: Write) -> str:
        kind = write.resource.plural
        if self._may(user, "escalate", kind, write.namespace, write.name):
            return ""
        why = self._lacking(user, write.namespace, read_rules(write.item))
        if why:
            return why
        gathers = _gathers(write.item) or _gathers(write.old or {})
        if gathers and self._lacking(user, "", EVERYTHING):
            return "must have cluster-admin privileges to use the aggregationRule"
        return ""

    def _binding(self, user: User, write: Write) -> str:
        role = table(write.item, "roleRef")
        kind, name = str(role.get("kind") or ""), str(role.get("name") or "")
        place = "" if write.resource.storage_key == CLUSTER_BINDINGS else write.namespace
        if self._may(user, "bind", f"{kind.lower()}s", place, name):
            return ""
        rules = self._rbac.role_rules(kind, place, name)
        if rules is None:
            raise NotFound(no_role(kind, name), details={"name": name, "group": GROUP})
        return self._lacking(user, place, rules)

    def _may(self, user: User, verb: str, plural: str, namespace: str, name: str) -> bool:
        access = Access(verb=verb, group=GROUP, resource=plural, namespace=namespace, name=name)
        return self._authorizer.decide(user, access).allowed

    def _lacking(self, user: User, namespace: str, rules: Iterable[Rule]) -> str:
        held = self._authorizer.held(user, namespace)
        left = missing(held.rules, rules)
        if not left:
            return ""
        groups = go_list(user.groups)
        text = "\n".join(rule.text for rule in left)
        why = (
            f"user {quoted(user.name)} (groups={groups}) is attempting to grant RBAC permissions"
            f" not currently held:\n{text}"
        )
        faults = "" if not held.faults else f"; resolution errors: [{', '.join(held.faults)}]"
        return why + faults


def _gathers(role: JsonObject) -> bool:
    return bool(table(role, "aggregationRule").get("clusterRoleSelectors"))


_HARMLESS = ("ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation")


def _is_the_same(write: Write) -> bool:
    """A write of owners and finalizers alone grants nothing; labels may: roles are gathered by them."""
    return write.old is not None and _plain(write.old) == _plain(write.item)


def _plain(item: JsonObject) -> JsonObject:
    meta = table(item, "metadata")
    return {**item, "metadata": {key: meta[key] for key in meta if key not in _HARMLESS}}
