"""What somebody with bad intentions sends to the console, over real sockets."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.console_rig import HEADER, Rig, a_console

THINGS = {**HEADER, "Accept": "text/event-stream"}


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param("http://[::1", id="half-an-address"),
        pytest.param("http://[bad]:1", id="no-address"),
        pytest.param("//", id="slashes"),
        pytest.param("http://", id="no-host"),
        pytest.param("null", id="null"),
        pytest.param("x" * 4_000, id="long"),
    ],
)
async def test_an_origin_that_is_none_is_refused_and_breaks_nothing(origin: str) -> None:
    async with a_console() as rig:
        await rig.sign_in("ditto")
        assert (await rig.ask("session", Origin=origin))[0] == 403
        assert (await rig.ask("/api/2/whoami", Origin=origin))[0] == 401


async def test_an_origin_is_compared_without_case() -> None:
    async with a_console() as rig:
        assert (await rig.ask("session", Origin="HTTP://EVIL", Host="evil"))[0] == 200


async def test_over_tls_a_cookie_that_another_host_may_have_set_is_no_session() -> None:
    async with a_console() as rig:
        assert (await rig.ask("session"))[0] == 200
        assert (await rig.ask("session", X_Forwarded_Proto="https"))[0] == 401


async def test_answers_to_the_page_are_kept_by_no_cache() -> None:
    async with a_console() as rig:
        await rig.sign_in("ditto")
        for path, status in (("/api/2/things", 200), ("/api/2/things/a:b", 404)):
            async with rig.http.get(f"{rig.url}{path}", headers=HEADER) as response:
                assert response.status == status
                assert response.headers["Cache-Control"] == "no-store"


async def _end_by_signing_out(rig: Rig) -> None:
    assert (await rig.ask("session", "DELETE"))[0] == 204


async def _end_by_time(rig: Rig) -> None:
    for session in rig.console.sessions._known.values():
        session.seen -= 100_000.0


@pytest.mark.parametrize("end", [_end_by_signing_out, _end_by_time], ids=["signed-out", "idle"])
async def test_a_stream_of_things_ends_with_the_session(end: object) -> None:
    async with a_console() as rig:
        await rig.sign_in("ditto")
        async with rig.http.get(f"{rig.url}/api/2/things", headers=THINGS) as response:
            assert response.status == 200
            await response.content.readuntil(b"\n\n")
            await end(rig)  # type: ignore[operator]
            async with asyncio.timeout(10):
                rest = await response.content.read()
            assert rest.replace(b":\n\n", b"") == b""
        assert (await rig.ask("/api/2/things"))[0] == 401


async def test_a_stream_with_a_password_goes_on_when_a_session_ends() -> None:
    async with a_console() as rig:
        await rig.sign_in("ditto")
        headers = {**THINGS, "Authorization": aiohttp.encode_basic_auth("ditto", "ditto")}
        async with rig.http.get(f"{rig.url}/api/2/things", headers=headers) as response:
            await response.content.readuntil(b"\n\n")
            await _end_by_signing_out(rig)
            for _ in range(2):
                assert await response.content.readuntil(b"\n\n") == b":\n\n"
