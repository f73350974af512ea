"""Who owns what, many writes at once, and what is done when the server says no."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway.errors import Conflict, Forbidden, GatewayError, NotFound, QuotaExceeded
from gateway.kube.client import KubeClient
from gateway.kube.control.context import Context
from gateway.kube.control.mirrors import Mirrors
from gateway.kube.control.pods_of import (
    OwnerKind,
    PodsOf,
    first_error,
    is_namespace_ending,
    side_by_side,
    slow_start,
)
from gateway.kube.control.statuses import write_status
from gateway.kube.events import EventRecorder
from gateway.kube.informer import Change
from gateway.model.json import JsonObject
from gateway.wire.kube.selectors import read_selector
from gateway.wire.kube.status import AlreadyExists

KIND = OwnerKind("apps/v1", "replicasets", "ReplicaSet", "replicaset-controller")
SELECTOR = read_selector({"matchLabels": {"app": "web"}})


def an_item(name: str, version: int = 1, **metadata: Any) -> JsonObject:
    meta = {"namespace": "n", "name": name, "uid": f"u-{name}", "resourceVersion": str(version)}
    spec = {"selector": {"matchLabels": {"app": "web"}}}
    return {"metadata": meta | metadata, "spec": spec}  # type: ignore[dict-item]


def a_pod(name: str, owner: str = "", app: str = "web", **metadata: Any) -> JsonObject:
    item = an_item(name, labels={"app": app}, **metadata)
    if owner:
        reference = {"kind": "ReplicaSet", "name": owner, "uid": f"u-{owner}", "controller": True}
        cast(Any, item)["metadata"]["ownerReferences"] = [reference]
    return item


class Api:
    """Notes what it is asked; answers with what it is told, or raises it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.patches: list[Any] = []
        self.answers: list[Any] = []

    def _answer(self, *call: str, otherwise: JsonObject | None = None) -> Any:
        self.calls.append(call)
        answer = self.answers.pop(0) if self.answers else otherwise
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def get(self, _gv: str, plural: str, _ns: str, name: str) -> Any:
        return self._answer("get", plural, name)

    async def create(self, _gv: str, plural: str, _ns: str, body: Any) -> Any:
        return self._answer("create", plural, otherwise=body)

    async def update(self, _gv: str, plural: str, _ns: str, body: Any, **_: Any) -> Any:
        return self._answer("update", plural, body["metadata"]["resourceVersion"], otherwise=body)

    async def patch(self, _gv: str, plural: str, _ns: str, name: str, patch: Any, **_: Any) -> Any:
        self.patches.append(patch)
        return self._answer("patch", plural, name, otherwise=a_pod(name, "web"))

    async def delete(self, _gv: str, plural: str, _ns: str, name: str, **how: Any) -> Any:
        return self._answer("delete", plural, name, str(how["uid"]))


class Rig:
    """Pods of ReplicaSets, with mirrors that a test fills by hand."""

    def __init__(self) -> None:
        self.api = Api()
        kube = cast(KubeClient, self.api)
        self.told: list[tuple[str, str]] = []
        events = cast(EventRecorder, self)
        self.context = Context(kube=kube, mirrors=Mirrors(kube), events=events, now=lambda: 0.0)
        self.pods = PodsOf(self.context, KIND)
        self.pokes: list[str] = []
        self.pods.listen(lambda key: self.pokes.append(key[1]))

    def record(self, _item: JsonObject, reason: str, message: str, **_: str) -> None:
        self.told.append((reason, message))

    def know(self, mirror: Any, *items: JsonObject) -> None:
        for item in items:
            mirror._informer.put(item)

    def tell(self, old: JsonObject | None, new: JsonObject | None) -> list[str]:
        self.pokes.clear()
        key = "n", str(cast(Any, new or old)["metadata"]["name"])
        self.pods._tell(Change(key, old, new), lambda key: self.pokes.append(key[1]))
        return sorted(self.pokes)


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_own_pods_are_kept_strangers_left_orphans_adopted(rig: Rig) -> None:
    owner = an_item("web")
    mine, other = a_pod("mine", "web"), a_pod("other", "another")
    rig.know(rig.pods.mirror, mine, other, a_pod("orphan"), a_pod("unlike", app="x"))
    rig.api.answers = [owner]
    held = await rig.pods.claim(owner, SELECTOR)
    assert [cast(Any, pod)["metadata"]["name"] for pod in held] == ["mine", "orphan"]
    assert rig.api.calls == [("get", "replicasets", "web"), ("patch", "pods", "orphan")]
    (patch,) = rig.api.patches
    assert patch["metadata"]["uid"] == "u-orphan"
    assert patch["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] is True


async def test_what_matches_no_more_is_released_unless_it_is_gone(rig: Rig) -> None:
    rig.know(rig.pods.mirror, a_pod("away", "web", app="x"), a_pod("gone", "web", app="x"))
    rig.api.answers = [a_pod("away", app="x"), NotFound()]
    assert await rig.pods.claim(an_item("web"), SELECTOR) == []
    assert rig.api.patches[0]["metadata"]["ownerReferences"] == [
        {"$patch": "delete", "uid": "u-web"}
    ]


async def test_nobody_adopts_who_is_being_deleted_though_the_mirror_does_not_know(rig: Rig) -> None:
    rig.know(rig.pods.mirror, a_pod("orphan"))
    rig.api.answers = [an_item("web", deletionTimestamp="now")]
    with pytest.raises(Conflict, match="has just been deleted"):
        await rig.pods.claim(an_item("web"), SELECTOR)
    rig.api.answers = [an_item("web", uid="another")]
    with pytest.raises(Conflict):
        await rig.pods.claim(an_item("web"), SELECTOR)
    assert await rig.pods.claim(an_item("web", deletionTimestamp="now"), SELECTOR) == []
    assert not rig.api.patches


async def test_a_pod_that_is_going_is_not_adopted(rig: Rig) -> None:
    rig.know(rig.pods.mirror, a_pod("going", deletionTimestamp="now"))
    assert await rig.pods.claim(an_item("web"), SELECTOR) == []


def test_owners_are_told_of_their_pods_and_of_orphans(rig: Rig) -> None:
    rig.know(rig.pods.owners, an_item("web"), an_item("api"))
    assert rig.tell(None, a_pod("a", "web")) == ["web"]
    assert rig.tell(a_pod("a", "web"), None) == ["web"]
    assert rig.tell(a_pod("a", "web"), a_pod("a", "api")) == ["api", "web"]
    assert rig.tell(None, a_pod("a")) == ["api", "web"]
    assert rig.tell(a_pod("a", app="y"), a_pod("a")) == ["api", "web"]
    assert rig.tell(a_pod("a"), a_pod("a", app="y")) == []
    assert rig.tell(a_pod("a"), a_pod("a")) == []
    stranger = a_pod("a", "web")
    cast(Any, stranger)["metadata"]["ownerReferences"][0]["uid"] = "older"
    assert rig.tell(None, stranger) == []


async def test_a_new_pod_is_known_at_once_and_told(rig: Rig) -> None:
    owner = an_item("web")
    rig.api.answers = [a_pod("web-1", "web")]
    await rig.pods.create(owner, {"metadata": {}, "spec": {}})
    assert rig.told == [("SuccessfulCreate", "Created pod: web-1")]


async def test_a_refusal_is_told_but_not_that_a_name_is_taken_or_the_namespace_ends(
    rig: Rig,
) -> None:
    ending = Forbidden("no new content in namespace n because it is being terminated")
    for error in (QuotaExceeded("too many"), AlreadyExists(), ending):
        rig.api.answers = [error]
        with pytest.raises(type(error)):
            await rig.pods.create(an_item("web"), {})
    assert rig.told == [("FailedCreate", "Error creating: too many")]
    assert is_namespace_ending(ending)
    cause = {"reason": "NamespaceTerminating"}
    assert is_namespace_ending(Forbidden("no", details={"causes": [cause]}))
    assert not is_namespace_ending(Forbidden("no"))


async def test_a_deleted_pod_is_doomed_whatever_older_news_says(rig: Rig) -> None:
    pod, mirror = a_pod("a", "web"), rig.pods.mirror
    rig.know(mirror, pod)
    await rig.pods.delete(an_item("web"), pod)
    assert rig.api.calls == [("delete", "pods", "a", "u-a")]
    assert rig.told == [("SuccessfulDelete", "Deleted pod: a")]
    assert mirror.is_doomed(pod)
    rig.know(mirror, a_pod("a", "web", resourceVersion="2"))  # its state before the deletion
    assert mirror.is_doomed(a_pod("a", "web", resourceVersion="2"))
    rig.know(mirror, a_pod("a", "web", resourceVersion="3", uid="again"))
    assert not mirror.is_doomed(a_pod("a", "web", uid="again"))


async def test_a_pod_that_somebody_else_deleted_is_no_error_but_a_refusal_is(rig: Rig) -> None:
    pod = a_pod("a", "web")
    rig.know(rig.pods.mirror, pod)
    rig.api.answers = [NotFound(), Forbidden("no")]
    await rig.pods.delete(an_item("web"), pod)
    assert rig.pods.mirror.is_doomed(pod)
    with pytest.raises(Forbidden):
        await rig.pods.delete(an_item("web"), pod)
    assert rig.told == [("FailedDelete", "Error deleting: no")]


# --- many writes ----------------------------------------------------------------------------------


async def test_many_writes_start_slowly_and_end_with_the_first_failure() -> None:
    now = most = made = 0
    sizes: list[int] = []

    async def write() -> None:
        nonlocal now, most, made
        now += 1
        made += 1
        await asyncio.sleep(0)
        sizes.append(now)
        now -= 1

    assert await slow_start(100, write) == (100, None)
    assert made == 100
    assert max(sizes) <= 32

    async def refused() -> None:
        nonlocal made
        made += 1
        if made > 103:
            raise QuotaExceeded("enough")

    done, error = await slow_start(50, refused)
    assert done == 3
    assert isinstance(error, QuotaExceeded)
    assert made == 107  # 1 + 2 + 4, and no more


async def test_each_of_many_writes_has_its_answer() -> None:
    async def good() -> None:
        return

    async def bad() -> None:
        raise NotFound("nothing")

    errors = await side_by_side([good, bad, good])
    assert [error is None for error in errors] == [True, False, True]
    assert isinstance(first_error(errors), GatewayError)
    assert first_error([None]) is None


# --- status ---------------------------------------------------------------------------------------


async def test_a_status_is_written_once_more_on_what_another_writer_left(rig: Rig) -> None:
    rig.api.answers = [Conflict(), an_item("web", 7)]
    place = KIND.group_version, KIND.plural
    stored = await write_status(rig.context, place, an_item("web", 3), {"replicas": 1})
    assert stored["status"] == {"replicas": 1}
    assert [call[-1] for call in rig.api.calls] == ["3", "web", "7"]
    rig.api.answers = [Conflict(), an_item("web", 9, uid="another")]
    with pytest.raises(Conflict):
        await write_status(rig.context, place, an_item("web", 3), {"replicas": 1})
