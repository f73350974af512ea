"""Metadata over HTTP and WebSocket, kept with the thing and its past."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.ditto_rig import PUMP, Stack, a_ditto, a_websocket, curl, put

UNIT = json.dumps([{"key": "unit", "value": "1/min"}])
RPM = "features/motor/properties/rpm"


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        thing = {"attributes": {"n": 1}, "features": {"motor": {"properties": {"rpm": 1}}}}
        await put(f"{stack.api}/things/{PUMP}", thing)
        yield stack


@pytest.fixture
def pump(ditto: Stack) -> str:
    return f"{ditto.api}/things/{PUMP}"


async def test_metadata_is_put_read_and_deleted_by_headers(pump: str) -> None:
    assert (await put(f"{pump}/{RPM}", 5, "-H", f"put-metadata: {UNIT}")).status == 204
    whole = await curl(f"{pump}?fields=_metadata")
    said = {"features": {"motor": {"properties": {"rpm": {"unit": "1/min"}}}}}
    assert whole.json == {"_metadata": said}
    part = await curl(f"{pump}?fields=thingId,_metadata/features/motor/properties/rpm/unit")
    assert part.json == {"thingId": PUMP, "_metadata": said}
    assert "_metadata" not in (await curl(pump)).json
    read = await curl(f"{pump}/{RPM}", "-H", "get-metadata: unit")
    assert (read.json, json.loads(read.headers["ditto-metadata"])) == (5, {"unit": "1/min"})
    await put(f"{pump}/{RPM}", 6, "-H", "delete-metadata: unit")
    gone = await curl(f"{pump}/{RPM}", "-H", "get-metadata: unit")
    assert json.loads(gone.headers["ditto-metadata"]) == {}
    past = await curl(f"{pump}?fields=_metadata&at-historical-revision=2")
    assert past.json == {"_metadata": said}
    assert (await curl(f"{pump}?fields=_metadata")).json == {}


async def test_metadata_goes_with_its_value_and_is_there_after_a_restart(
    ditto: Stack, pump: str
) -> None:
    every = json.dumps([{"key": "*/by", "value": {"who": "me"}}])
    await put(f"{pump}/attributes", {"a": 1, "b": 2}, "-H", f"put-metadata: {every}")
    await curl("-X", "DELETE", f"{pump}/attributes/a")
    ditto.things._things.entry(PUMP).forget()
    found = await curl(f"{pump}?fields=_metadata")
    assert found.json == {"_metadata": {"attributes": {"b": {"by": {"who": "me"}}}}}
    condition = "condition=eq(_metadata/attributes/b/by/who,%22me%22)"
    assert (await put(f"{pump}/attributes/b?{condition}", 3)).status == 204


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (["put-metadata: {"], "header.invalid"),
        ([f"put-metadata: {UNIT}", "get-metadata: unit"], "things:metadata.headersconflict"),
    ],
)
async def test_bad_headers_are_refused(pump: str, headers: list[str], code: str) -> None:
    found = await put(f"{pump}/{RPM}", 5, *(part for text in headers for part in ("-H", text)))
    assert (found.status, found.error) == (400, code)
    read = await curl(pump, "-H", f"put-metadata: {UNIT}")
    assert (read.status, read.error) == (400, "things:metadata.notmodifiable")


async def test_metadata_is_put_over_the_socket_and_comes_with_events_that_ask_for_it(
    ditto: Stack,
) -> None:
    topic = "org.acme/pump-1/things/twin/commands"
    async with a_websocket(ditto) as app, a_websocket(ditto) as watcher:
        await watcher.control("START-SEND-EVENTS?extraFields=_metadata")
        headers = {"put-metadata": [{"key": "unit", "value": "rpm"}]}
        assert (await app.ask(f"{topic}/modify", f"/{RPM}", 7, headers=headers))["status"] == 204
        event = await watcher.envelope()
        said = {"features": {"motor": {"properties": {"rpm": {"unit": "rpm"}}}}}
        assert (event["value"], event["extra"]) == (7, {"_metadata": said})
        assert "put-metadata" not in event["headers"]
        read = await app.ask(f"{topic}/retrieve", f"/{RPM}", headers={"get-metadata": "unit"})
        assert read["headers"]["ditto-metadata"] == {"unit": "rpm"}
