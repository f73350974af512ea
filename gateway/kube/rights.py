"""Who may do what on one API: its judges, and the guards of what is written."""

from __future__ import annotations

from gateway.kube.auth import Access, User, access_to
from gateway.kube.authorizer import Chain, Decision, Masters, refusal
from gateway.kube.csrguards import KIND as REQUESTS
from gateway.kube.csrguards import RequestGuard, stamp
from gateway.kube.escalation import Escalation
from gateway.kube.hooks import Hooks
from gateway.kube.nodeaccess import NodeAccess, node_name
from gateway.kube.noderestriction import RESTRICTED_KINDS, NodeRestriction
from gateway.kube.rbac import KINDS, Rbac
from gateway.kube.storage import Storage
from gateway.model.json import Json
from gateway.wire.kube.resources import ResourceType

_CHANGES = ("update", "patch", "delete")


class Rights:
    """Judges that follow `storage`, and guards registered at `hooks`."""

    def __init__(self, storage: Storage, hooks: Hooks) -> None:
        self.rbac = Rbac(storage)
        self.authorizer = Chain((Masters(), NodeAccess(storage), self.rbac))
        self._restriction = NodeRestriction(storage)
        hooks.guard(sorted(KINDS), Escalation(self.authorizer, self.rbac))
        hooks.guard(RESTRICTED_KINDS, self._restriction)
        hooks.guard((REQUESTS,), RequestGuard(self.authorizer))
        hooks.stamp(REQUESTS, stamp)

    def require(self, user: User, access: Access) -> Decision:
        """Return the decision that allows a request.

        Errors: Forbidden, with the text of a real server; NotFound for what a node would remove in vain.
        """
        return self.require_decided(user, access, self.authorizer.decide(user, access))

    def require_decided(self, user: User, access: Access, decision: Decision) -> Decision:
        """The same, where the judges have decided already. Errors: as `require`."""
        if not decision.allowed:
            raise refusal(user, access, decision.reason)
        node = node_name(user) if access.resource else None
        if not node:
            return decision
        is_removal = access.verb == "delete" and not access.subresource
        if is_removal or (access.resource == "nodes" and access.verb in _CHANGES):
            self._restriction.check_removal(node, access.resource, access.namespace, access.name)
        return decision

    def require_create(
        self, user: User | None, resource: ResourceType, namespace: str | None
    ) -> None:
        """An apply that creates needs the right to create, too. Errors: Forbidden."""
        if user is not None:
            group, plural = resource.group, resource.plural
            self.require(user, access_to("create", group, plural, namespace=namespace or ""))

    def require_asking(self, user: User, access: Access, body: Json) -> None:
        """Judge by its body what a node asks of an object: a token, an eviction. Errors: Forbidden."""
        node = node_name(user)
        if not node:
            return
        namespace, name = access.namespace, access.name
        match (access.resource, access.subresource):
            case ("serviceaccounts", "token"):
                document = body if isinstance(body, dict) else {}
                self._restriction.check_token(node, namespace, name, document)
            case ("pods", "eviction"):
                self._restriction.check_removal(node, "pods", namespace, name)

    def may(self, user: User, access: Access) -> bool:
        """True when a request is allowed."""
        return self.authorizer.decide(user, access).allowed
