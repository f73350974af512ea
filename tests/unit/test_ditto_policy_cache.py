"""Enforcers in memory: dropped when anything that they were made from changes."""

from __future__ import annotations

from gateway.config.ditto import NamespaceRoot
from gateway.ditto.lane import Wait
from gateway.ditto.policy_cache import PolicyCache
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.model.policy import Policy, PolicyEvent
from gateway.model.thing import EventAction
from gateway.store.things import Commit, PolicyWrite
from gateway.store.things_memory import MemoryThingStore
from gateway.twin.documents import encoded
from gateway.twin.policy import Enforcer

NOW = "2026-01-01T00:00:00.000000Z"


def a_store(**documents: JsonObject) -> MemoryThingStore:
    """A store with a policy `a:<name>` for each name."""
    store = MemoryThingStore()
    for name, document in documents.items():
        policy = Policy(f"a:{name}", 1, document, NOW, NOW)
        event = PolicyEvent(
            policy_id=policy.policy_id,
            action=EventAction.CREATED,
            path=(),
            revision=1,
            timestamp=NOW,
            after=policy,
        )
        store.append(Commit(policy=PolicyWrite(event, encoded(document))), lambda _answer: None)
    return store


def imports(*names: str, opened: str = "") -> JsonObject:
    body: JsonObject = {"transitiveImports": [f"a:{opened}"]} if opened else {}
    return {"entries": {}, "imports": {f"a:{name}": body for name in names}}


def a_cache(size: int = 100, root: str | None = None, **documents: JsonObject) -> PolicyCache:
    roots = (NamespaceRoot(namespace="a", policies=(root,)),) if root else ()
    return PolicyCache(a_store(**documents), lambda *_: None, size, roots)


def enforcer_of(cache: PolicyCache, policy_id: str) -> Enforcer | None:
    while True:
        try:
            return cache.enforcer(policy_id)
        except Wait as wait:
            told: list[GatewayError | None] = []
            wait.begin(told.append)
            assert told == [None]


def test_an_enforcer_is_kept_until_what_it_was_made_from_changes() -> None:
    cache = a_cache(
        leaf=imports("middle", opened="top"), middle=imports("top"), top={"entries": {}}
    )
    made = enforcer_of(cache, "a:leaf")
    assert enforcer_of(cache, "a:leaf") is made
    for changed in ("a:top", "a:middle", "a:leaf"):
        before = enforcer_of(cache, "a:leaf")
        cache.forget_enforcers(changed)
        assert enforcer_of(cache, "a:leaf") is not before
    before = enforcer_of(cache, "a:leaf")
    cache.forget_enforcers("a:other")
    assert enforcer_of(cache, "a:leaf") is before
    assert cache.importers("a:top") == ("a:leaf",)


def test_an_import_that_does_not_exist_yet_is_waited_for() -> None:
    cache = a_cache(leaf=imports("later"))
    before = enforcer_of(cache, "a:leaf")
    cache.forget_enforcers("a:later")
    assert enforcer_of(cache, "a:leaf") is not before


def test_root_policies_are_looked_up_for_their_namespace_alone() -> None:
    cache = a_cache(root="a:root", leaf={"entries": {}}, root_policy={"entries": {}})
    before = enforcer_of(cache, "a:leaf")
    cache.forget_enforcers("a:root")
    assert enforcer_of(cache, "a:leaf") is not before
    enforcer_of(cache, "b:other")
    assert cache.importers("a:root") == ("a:leaf",)


def test_a_policy_that_left_the_memory_is_nobodys_importer() -> None:
    cache = a_cache(size=2, leaf=imports("top"), top={"entries": {}})
    enforcer_of(cache, "a:leaf")
    assert cache.importers("a:top") == ("a:leaf",)
    for name in ("b:1", "b:2", "b:3"):
        cache.entry(name)
    assert cache.importers("a:top") == ()
