"""What objects are asked for by a create of a subresource: tokens, bindings, evictions."""

from __future__ import annotations

from functools import partial

from gateway.kube.accounts import Accounts
from gateway.kube.bindings import bind
from gateway.kube.evictions import evict
from gateway.kube.objects import Objects
from gateway.kube.questions import Question
from gateway.model.json import JsonObject


def serve_askings(objects: Objects, key: bytes) -> Accounts:
    """Let ServiceAccounts have tokens, signed with `key`, and Pods be bound and evicted."""
    objects.accounts = accounts = Accounts(objects, key)

    async def token(question: Question) -> JsonObject:
        return await accounts.token(question.stored, question.body)

    objects.askings["serviceaccounts", "token"] = token
    objects.askings["pods", "eviction"] = partial(evict, objects)
    objects.askings["pods", "binding"] = partial(bind, objects)
    return accounts
