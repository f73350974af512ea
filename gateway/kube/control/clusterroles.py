"""ClusterRoles that gather others: their rules are written, so that everybody sees them.

The authorizer gathers by itself and does not wait. Source: kube-controller-manager's clusterrole-aggregation.
"""

from __future__ import annotations

from gateway.errors import Conflict, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import metadata_of
from gateway.kube.informer import Change
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.selectors import LabelSelector, read_selector

GROUP_VERSION, PLURAL = "rbac.authorization.k8s.io/v1", "clusterroles"


class Aggregation:
    """Looks at each role that gathers when any role changes."""

    def __init__(self, context: Context) -> None:
        self._kube = context.kube
        self._roles = context.mirrors.of(GROUP_VERSION, PLURAL)
        self._gathering = self._roles.index("gathers", _gathers)
        self._loop: Loop[str] = Loop(self._look, at_once=1)
        self._roles.on_change(self._changed)

    async def run(self) -> None:
        await self._loop.run()

    def _changed(self, _change: Change) -> None:
        for role in self._gathering.get("yes"):
            self._loop.poke(str(metadata_of(role).get("name")))

    async def _look(self, name: str) -> None:
        role = self._roles.get(None, name)
        if role is None or not _gathers(role):
            return
        rules = gathered(role, list(self._roles.objects.values()))
        if rules == (role.get("rules") or []):
            return
        version: JsonObject = {"resourceVersion": metadata_of(role).get("resourceVersion")}
        patch: JsonObject = {"metadata": version, "rules": rules}
        try:
            self._roles.put(await self._kube.patch(GROUP_VERSION, PLURAL, None, name, patch))
        except (Conflict, NotFound):
            return  # the change comes, and with it another look


def gathered(role: JsonObject, roles: list[JsonObject]) -> list[Json]:
    """Return the rules that a role gathers, each once, by the names of their roles."""
    found: list[Json] = []
    own = metadata_of(role).get("name")
    for other in sorted(roles, key=lambda item: str(metadata_of(item).get("name"))):
        if metadata_of(other).get("name") == own:
            continue
        if not any(selector.matches(other) for selector in _selectors(role)):
            continue
        rules = other.get("rules")
        for rule in rules if isinstance(rules, list) else []:
            if rule not in found:
                found.append(rule)
    return found


def _selectors(role: JsonObject) -> list[LabelSelector]:
    gathers = role.get("aggregationRule")
    found = gathers.get("clusterRoleSelectors") if isinstance(gathers, dict) else None
    entries = found if isinstance(found, list) else []
    return [read_selector(each) for each in entries if isinstance(each, dict)]


def _gathers(role: JsonObject) -> tuple[str, ...]:
    return ("yes",) if _selectors(role) else ()
