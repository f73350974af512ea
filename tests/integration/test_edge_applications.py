"""Applications: who asks what of the cloud, and when it is spared."""

from __future__ import annotations

import asyncio

import pytest

from edge.applications import Applications
from edge.hub import NoAnswer
from gateway.errors import GatewayError, Undeliverable
from gateway.runtime.module import running
from gateway.wire.cloudedge.applications import (
    ApiKey,
    Application,
    ApplicationAsked,
    Verb,
    WatchesSynced,
    answer_application,
    answer_watches,
    approved,
    make_application,
    rejected,
)
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.to_cloud import read_to_cloud
from gateway.wire.cloudedge.to_edge import Answer, read_to_edge
from tests.integration.edge_cloud import stamp
from tests.integration.edge_support import until


class Cloud:
    """What an edge has of its hub; the cloud behind it answers at once, or never."""

    def __init__(self) -> None:
        self.asked: list[Application] = []
        self.live: list[set[str]] = []
        self.is_silent = False
        self.refuses = False
        self.fails: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    def send(self, envelope: Envelope) -> None:
        raise AssertionError(envelope)

    async def ask(self, envelope: Envelope, seconds: float = 60.0) -> Answer:
        message = read_to_cloud(envelope)
        if isinstance(message, ApplicationAsked):
            self.asked.append(message.application)
        if isinstance(message, WatchesSynced):
            self.live.append(set(message.live))
        await self.gate.wait()
        if self.is_silent:
            raise NoAnswer(f"no answer in {seconds} s")
        answer = read_to_edge(self._answer(envelope, message))
        assert isinstance(answer, Answer)
        return answer

    def _answer(self, envelope: Envelope, message: object) -> Envelope:
        if isinstance(message, WatchesSynced):
            failed = {key: app for key, app in message.live.items() if key in self.fails}
            return answer_watches(envelope, stamp(), failed)
        assert isinstance(message, ApplicationAsked)
        app = message.application
        if self.refuses:
            return answer_application(envelope, stamp(), rejected(app, {"code": 403}))
        return answer_application(envelope, stamp(), approved(app, b"{}"))


LIST = make_application("edge-1", ApiKey("", "v1", "pods"), Verb.LIST)
WATCH = make_application("edge-1", ApiKey("", "v1", "pods"), Verb.WATCH)
CREATE = make_application("edge-1", ApiKey("", "v1", "pods", "default"), Verb.CREATE, body=b"{}")


async def test_one_question_answers_all_who_ask_it_even_if_the_first_goes_away() -> None:
    cloud = Cloud()
    apps = Applications(cloud)
    cloud.gate.clear()
    first, second = (asyncio.create_task(apps.apply(LIST)) for _ in range(2))
    await until(lambda: cloud.asked)
    first.cancel()
    cloud.gate.set()
    assert (await second).is_approved
    assert len(cloud.asked) == 1
    assert first.cancelled()


async def test_writes_are_each_asked() -> None:
    cloud = Cloud()
    apps = Applications(cloud)
    await asyncio.gather(apps.apply(CREATE), apps.apply(CREATE))
    assert len(cloud.asked) == 2


async def test_a_cloud_that_does_not_answer_holds_up_one_read_and_every_write() -> None:
    cloud = Cloud()
    apps = Applications(cloud)
    cloud.is_silent = True
    for app in (LIST, LIST, LIST, CREATE, CREATE):
        with pytest.raises(Undeliverable):
            await apps.apply(app)
    assert [app.verb for app in cloud.asked] == ["list", "create", "create"]
    cloud.is_silent = False
    apps.link_up(has_spool=False)
    assert (await apps.apply(LIST)).is_approved


async def test_live_watches_are_told_after_each_connect_and_refreshed() -> None:
    cloud = Cloud()
    refreshed: list[str] = []

    async def refresh(app: Application) -> None:
        refreshed.append(app.id)

    apps = Applications(cloud)
    apps.refresh = refresh
    async with running(apps):
        await apps.hold(WATCH)
        await apps.hold(WATCH)
        assert len(cloud.asked) == 1
        for _ in range(2):
            refreshed.clear()
            apps.link_up(has_spool=False)
            await until(lambda: refreshed == [WATCH.id])
            apps.link_down()
        assert cloud.live == [{WATCH.id}, {WATCH.id}]


async def test_a_watch_that_the_cloud_cannot_keep_is_asked_for_again() -> None:
    cloud = Cloud()
    apps = Applications(cloud)
    cloud.fails = {WATCH.id}
    async with running(apps):
        await apps.hold(WATCH)
        apps.link_up(has_spool=False)
        await until(lambda: cloud.live)
        apps.release(WATCH)
        await until(lambda: WATCH.id not in apps.live)
        await apps.hold(WATCH)
        assert len([app for app in cloud.asked if app.verb == "watch"]) == 2


async def test_a_refused_watch_is_not_kept() -> None:
    cloud = Cloud()
    apps = Applications(cloud)
    cloud.refuses = True
    with pytest.raises(GatewayError) as caught:
        await apps.hold(WATCH)
    assert caught.value.status == 403
    assert not apps.live
