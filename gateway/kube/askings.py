"""What objects are asked for by a create of a subresource: a ServiceAccount's token, a Pod's eviction."""

from __future__ import annotations

from gateway.kube.accounts import Accounts
from gateway.kube.bodies import delete_options
from gateway.kube.objects import Objects
from gateway.kube.strategies import table
from gateway.kube.watch import Stored
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.status import success


def serve_askings(objects: Objects, key: bytes) -> Accounts:
    """Let ServiceAccounts have tokens, signed with `key`, and Pods be evicted."""

    async def evict(pod: Stored, body: Json) -> JsonObject:
        """Delete a Pod as its Eviction says; there are no disruption budgets that could forbid it."""
        options = table(body if isinstance(body, dict) else {}, "deleteOptions")
        namespace, name = pod.key.namespace, pod.key.name
        pods = objects.resource("v1", "pods")
        deleted = await objects.delete(pods, namespace, name, delete_options(options, {}))
        return success(name, "", "pods", str(table(deleted.stored.object, "metadata").get("uid")))

    objects.accounts = accounts = Accounts(objects, key)
    objects.askings["serviceaccounts", "token"] = accounts.token
    objects.askings["pods", "eviction"] = evict
    return accounts
