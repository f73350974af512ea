"""The history of a template."""

from __future__ import annotations

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part
from gateway.wire.kube.revisions import (
    data_hash,
    history_limit,
    history_of,
    new_revision,
    restored,
    revision_data,
    revision_name,
    surplus,
    unused,
)

STORED: JsonObject = {
    "spec": {
        "template": {
            "$patch": "replace",
            "metadata": {"labels": {"app": "hash"}},
            "spec": {
                "containers": [
                    {
                        "command": ["a<b>&c"],
                        "image": "i:1",
                        "imagePullPolicy": "IfNotPresent",
                        "name": "c",
                        "resources": {},
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                    }
                ],
                "dnsPolicy": "ClusterFirst",
                "restartPolicy": "Always",
                "schedulerName": "default-scheduler",
                "securityContext": {},
                "terminationGracePeriodSeconds": 30,
            },
        }
    }
}
"""As a real server keeps it, with the name that a real controller gave it."""


def an_owner(image: str = "a", **spec: Json) -> JsonObject:
    template: JsonObject = {"metadata": {"labels": {"app": "w"}}, "spec": {"image": image}}
    return {"metadata": {"name": "w", "namespace": "s"}, "spec": {"template": template, **spec}}


def a_revision(name: str, number: int, image: str) -> JsonObject:
    return {"metadata": {"name": name}, "revision": number, "data": revision_data(an_owner(image))}


def test_a_template_has_the_hash_that_other_controllers_give_it() -> None:
    assert data_hash(STORED, 0) == "844674d58d"
    assert data_hash(STORED, 1) != "844674d58d"


def test_a_revision_brings_its_template_back() -> None:
    body = new_revision(an_owner(), {"uid": "u"}, 3, "abc", "hash")
    assert part(body, "metadata")["name"] == "w-abc"
    assert part(body, "metadata")["labels"] == {"app": "w", "hash": "abc"}
    assert body["revision"] == 3
    assert list(part(body, "data", "spec", "template")) == ["$patch", "metadata", "spec"]
    assert restored(an_owner("b", replicas=2), body) == an_owner(replicas=2)


def test_long_names_leave_room_for_the_hash() -> None:
    assert revision_name("n" * 253, "abc") == "n" * 223 + "-abc"


def test_the_newest_template_may_be_an_old_one() -> None:
    revisions = [a_revision("w-2", 2, "b"), a_revision("w-1", 1, "a"), a_revision("w-3", 3, "c")]
    history = history_of(an_owner("a"), revisions)
    assert [part(each, "metadata")["name"] for each in history.current] == ["w-1"]
    assert [part(each, "metadata")["name"] for each in history.old] == ["w-2", "w-3"]
    assert history.next_number == 4
    assert history_of(an_owner("c"), revisions).next_number == 3
    assert history_of(an_owner("z"), []).next_number == 1


def test_an_explicit_null_makes_no_other_template() -> None:
    revision = a_revision("w-1", 1, "a")
    part(revision, "data", "spec", "template", "metadata")["creationTimestamp"] = None
    assert history_of(an_owner("a"), [revision]).current == (revision,)


def test_of_the_unused_the_oldest_go() -> None:
    revisions = [a_revision(f"w-{n}", n, str(n)) for n in range(1, 6)]
    idle = unused(revisions, {"w-1", "w-5"})
    assert [part(each, "metadata")["name"] for each in surplus(idle, 1)] == ["w-2", "w-3"]
    assert surplus(idle, 3) == []
    assert len(surplus(idle, 0)) == 3
    assert history_limit(an_owner()) == 10
    assert history_limit(an_owner(revisionHistoryLimit=0)) == 0
