"""The cloud's end of a link: keep-alive, acknowledgement, resending, newest version only."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.cloudedge import to_cloud, to_edge
from gateway.wire.cloudedge.envelope import Route, Stamp, encode, make
from gateway.wire.cloudedge.link import (
    CloudLink,
    Delivered,
    Ended,
    Ending,
    LinkLimits,
    ObjectMessage,
    Received,
    Unanswered,
    Unreadable,
)
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_cloud import EdgeFailed
from gateway.wire.cloudedge.to_edge import change_object


def an_object(key: str, version: str) -> ObjectMessage:
    envelope = change_object(
        Stamp(f"{key}@{version}", 1),
        Subject("default", "device", key),
        Operation.UPDATE,
        {"metadata": {"uid": key, "resourceVersion": version}},
        version=version,
    )
    return ObjectMessage(key, version, envelope)


def ids(link: CloudLink, now: float) -> list[str]:
    return [json.loads(frame)["header"]["msg_id"] for frame in link.frames(now)]


def acknowledge(link: CloudLink, item: ObjectMessage, now: float) -> list[object]:
    answer = to_cloud.acknowledge(item.envelope, Stamp("a", 1))
    return list(link.receive(encode(answer).decode(), now))


def test_an_object_goes_out_once_and_its_answer_counts_as_delivered() -> None:
    link = CloudLink(0.0)
    item = an_object("u1", "5")
    assert link.offer(item)
    assert ids(link, 0.0) == ["u1@5"]
    assert ids(link, 1.0) == []
    assert acknowledge(link, item, 1.0) == [Delivered(item)]
    assert link.waiting == 0
    assert acknowledge(link, item, 1.0) == []


def test_only_the_newest_version_of_a_waiting_object_is_sent() -> None:
    link = CloudLink(0.0)
    for version in ("5", "6", "7"):
        link.offer(an_object("u1", version))
    assert ids(link, 0.0) == ["u1@7"]


def test_a_newer_version_waits_until_the_older_one_is_answered() -> None:
    link = CloudLink(0.0)
    old, new = an_object("u1", "5"), an_object("u1", "6")
    link.offer(old)
    assert ids(link, 0.0) == ["u1@5"]
    link.offer(new)
    assert ids(link, 0.0) == []
    assert link.holds("u1", "6")
    assert not link.holds("u1", "5")
    acknowledge(link, old, 0.1)
    assert ids(link, 0.1) == ["u1@6"]


def test_an_unanswered_object_is_sent_five_times_with_the_same_id_then_rests() -> None:
    link = CloudLink(0.0, LinkLimits(keepalive_timeout=1e9))
    item = an_object("u1", "5")
    link.offer(item)
    sent = ids(link, 0.0)
    for second in range(5, 25, 5):
        assert link.tick(float(second)) == []
        sent += ids(link, float(second))
    assert sent == ["u1@5"] * 5
    assert link.tick(25.0) == [Unanswered(item)]
    assert ids(link, 25.0) == []
    assert link.wake_at == 35.0
    assert ids(link, 35.0) == ["u1@5"]


def test_rests_grow_and_are_capped() -> None:
    limits = LinkLimits(keepalive_timeout=1e9, transmissions=1, rest=10.0, longest_rest=25.0)
    link = CloudLink(0.0, limits)
    link.offer(an_object("u1", "5"))
    now, rests = 0.0, []
    for _ in range(4):
        assert ids(link, now) == ["u1@5"]
        link.tick(now + 5.0)
        rests.append(link.wake_at - now - 5.0)
        now = link.wake_at
    assert rests == [10.0, 20.0, 25.0, 25.0]


def test_a_newer_version_does_not_rest() -> None:
    link = CloudLink(0.0, LinkLimits(keepalive_timeout=1e9, transmissions=1))
    link.offer(an_object("u1", "5"))
    ids(link, 0.0)
    link.tick(5.0)
    link.offer(an_object("u1", "6"))
    assert ids(link, 5.0) == ["u1@6"]


def test_a_silent_object_does_not_block_the_others() -> None:
    link = CloudLink(0.0, LinkLimits(window=2))
    items = [an_object(f"u{n}", "1") for n in range(4)]
    for item in items:
        link.offer(item)
    assert ids(link, 0.0) == ["u0@1", "u1@1"]
    acknowledge(link, items[1], 0.1)
    assert ids(link, 0.1) == ["u2@1"]


def test_an_error_from_the_edge_does_not_stop_the_resend() -> None:
    link = CloudLink(0.0)
    item = an_object("u1", "5")
    link.offer(item)
    ids(link, 0.0)
    failed = encode(to_cloud.report_failure(item.envelope, Stamp("a", 1), "disk full")).decode()
    (event,) = link.receive(failed, 1.0)
    assert isinstance(event, Received)
    assert event.message == EdgeFailed("u1@5", "disk full")
    link.tick(5.0)
    assert ids(link, 5.0) == ["u1@5"]


def test_a_link_without_keepalive_ends_and_one_with_goes_on() -> None:
    link = CloudLink(0.0)
    assert link.tick(29.9) == []
    link.receive(encode(to_cloud.keepalive(Stamp("k", 1))).decode(), 29.9)
    assert link.tick(59.8) == []
    assert link.tick(59.9) == [Ended(Ending.SILENT)]
    assert link.closed
    assert link.tick(99.0) == []


def test_other_messages_do_not_count_as_keepalive() -> None:
    link = CloudLink(0.0)
    asked = to_cloud.ask(Stamp("q", 1), Subject("a", "secret", "b"), Operation.QUERY)
    assert isinstance(link.receive(encode(asked).decode(), 29.0)[0], Received)
    assert link.tick(30.0) == [Ended(Ending.SILENT)]


def test_garbage_ends_the_link_and_an_odd_message_does_not() -> None:
    link = CloudLink(0.0)
    odd = '{"header":{"msg_id":"a"},"route":{"operation":"query","resource":"x"},"content":1}'
    assert isinstance(link.receive(odd, 0.0)[0], Unreadable)
    (ended,) = link.receive("GET / HTTP/1.1", 0.0)
    assert isinstance(ended, Ended)
    assert ended.why is Ending.GARBAGE
    assert link.receive(odd, 0.0) == []
    assert not link.offer(an_object("u1", "1"))


def test_a_frame_over_the_limit_ends_the_link() -> None:
    link = CloudLink(0.0, LinkLimits(max_frame=100))
    (ended,) = link.receive('{"header":{"msg_id":"' + "x" * 100 + '"}}', 0.0)
    assert isinstance(ended, Ended)
    assert "at most 100 bytes" in ended.detail


def test_full_queues_refuse() -> None:
    link = CloudLink(0.0, LinkLimits(queue=2))
    assert [link.offer(an_object(f"u{n}", "1")) for n in range(3)] == [True, True, False]
    assert link.offer(an_object("u1", "2"))
    notice = make(Stamp("n", 1), to_edge.answer_twin(_ASKED, Stamp("n", 1)).route, "OK")
    assert [link.push(notice) for _ in range(3)] == [True, True, False]


_ASKED = to_cloud.ask_membership(Stamp("m", 1), "edge-1")


def test_answers_go_out_before_objects_in_their_order() -> None:
    link = CloudLink(0.0)
    link.offer(an_object("u1", "1"))
    for name in ("a", "b"):
        link.push(to_edge.answer_twin(_ASKED, Stamp(name, 1)))
    assert ids(link, 0.0) == ["a", "b", "u1@1"]


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 5), st.integers(1, 9)),
        st.tuples(st.just("ack"), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 12), st.just(0)),
    ),
    max_size=60,
)


@given(_steps)
def test_whatever_happens_each_newest_version_is_delivered_in_the_end(
    steps: list[tuple[str, int, int]],
) -> None:
    limits = LinkLimits(keepalive_timeout=1e9, window=3)
    link, now = CloudLink(0.0, limits), 0.0
    newest: dict[str, str] = {}
    delivered: dict[str, str] = {}
    sent: list[str] = []

    def take_all(picked: list[str]) -> None:
        for msg_id in picked:
            key, _, version = msg_id.partition("@")
            for event in acknowledge(link, an_object(key, version), now):
                assert isinstance(event, Delivered)
                delivered[event.item.key] = event.item.version

    for number, (what, value, _) in enumerate(steps):
        if what == "offer":
            newest[f"u{value}"] = f"{number}"
            link.offer(an_object(f"u{value}", f"{number}"))
        elif what == "ack" and sent:
            take_all([sent.pop(value % len(sent))])
        elif what == "wait":
            now += value
            link.tick(now)
        sent += ids(link, now)
        assert len(link._flights) <= 3
    for _ in range(200):
        take_all(sent)
        now = max(now, min(link.wake_at, now + 400.0))
        link.tick(now)
        sent = ids(link, now)
        if not link.waiting:
            break
    assert delivered == newest


def test_what_is_handed_out_in_one_go_is_bounded_and_the_rest_is_not_sent_yet() -> None:
    link = CloudLink(0.0, LinkLimits(keepalive_timeout=1e9, batch=1))
    for number in range(3):
        link.offer(an_object(f"u{number}", "1"))
    assert ids(link, 0.0) == ["u0@1"]
    assert link.tick(5.0) == []  # only what was handed out is due
    assert [ids(link, 5.0) for _ in range(4)] == [["u0@1"], ["u1@1"], ["u2@1"], []]


def test_an_answer_is_not_late_while_its_question_is_not_written() -> None:
    link = CloudLink(0.0, LinkLimits(keepalive_timeout=1e9))
    item = an_object("u1", "5")
    link.offer(item)
    ids(link, 0.0)
    for second in range(1, 100):
        assert link.tick(float(second), is_stalled=True) == []
    assert ids(link, 99.0) == []
    assert acknowledge(link, item, 99.0) == [Delivered(item)]


def test_answers_that_wait_are_bounded_in_bytes_too() -> None:
    link = CloudLink(0.0, LinkLimits(queue_bytes=1_000))
    large = make(Stamp("l", 1), Route(operation="response"), "x" * 600)
    assert link.push(large)
    assert not link.push(large)
    assert len(link.frames(0.0)) == 1
    huge = make(Stamp("h", 1), Route(operation="response"), "x" * 6_000)
    assert link.push(huge)  # one always fits
    assert not link.push(make(Stamp("s", 1), Route(), "x"))
    assert len(link.frames(0.0)) == 1
    assert link.push(large)
