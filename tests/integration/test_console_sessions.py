"""The console's sign-in over real sockets: cookies, other origins, guessing, and the things' API."""

from __future__ import annotations

import pytest

from gateway.ditto.throttle import FREE_TRIES
from tests.console_rig import HEADER, USERS, a_console


async def test_who_signs_in_gets_a_cookie_that_scripts_and_other_sites_do_not_see() -> None:
    async with a_console(operator=False) as rig:
        url = f"{rig.url}/console/api/session"
        body = {"user": "ditto", "password": "ditto"}
        async with rig.http.post(url, json=body, headers=HEADER) as response:
            cookie = response.headers["Set-Cookie"]
            found = await response.json()
        assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
        assert "Secure" not in cookie
        assert found["user"] == found["ditto"] == "ditto"
        assert found["operator"] is False
        assert (await rig.ask("session"))[0] == 200


async def test_behind_a_proxy_with_tls_the_cookie_is_secure() -> None:
    async with a_console(operator=False) as rig:
        url = f"{rig.url}/console/api/session"
        body = {"user": "ditto", "password": "ditto"}
        headers = {**HEADER, "X-Forwarded-Proto": "https"}
        async with rig.http.post(url, json=body, headers=headers) as response:
            cookie = response.headers["Set-Cookie"]
        assert cookie.startswith("__Host-twinspan_console=")
        assert "Secure" in cookie


async def test_a_wrong_password_says_no_more_than_that_and_guessing_is_slowed_down() -> None:
    async with a_console(operator=False) as rig:
        unknown = await rig.sign_in("nobody", "x")
        wrong = await rig.sign_in("ditto", "x")
        assert unknown == wrong
        assert wrong[0] == 401
        for _ in range(FREE_TRIES - 1):
            await rig.sign_in("ditto", "x")
        url = f"{rig.url}/console/api/session"
        body = {"user": "ditto", "password": USERS["ditto"]}
        async with rig.http.post(url, json=body, headers=HEADER) as response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) > 0
        assert (await rig.sign_in("devops"))[0] == 200


async def test_the_user_of_status_has_no_console() -> None:
    async with a_console(operator=False) as rig:
        status, found = await rig.sign_in("status")
        assert (status, found["error"]) == (403, "console:user.refused")
        assert (await rig.ask("session"))[0] == 401


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no-header"),
        pytest.param({**HEADER, "Sec-Fetch-Site": "cross-site"}, id="cross-site"),
        pytest.param({**HEADER, "Sec-Fetch-Site": "same-site"}, id="same-site"),
        pytest.param({**HEADER, "Origin": "https://evil.example"}, id="other-origin"),
        pytest.param({**HEADER, "Origin": "null"}, id="null-origin"),
    ],
)
async def test_requests_of_other_pages_get_nothing_though_the_cookie_comes_along(
    headers: dict[str, str],
) -> None:
    async with a_console() as rig:
        await rig.sign_in("ditto")
        for path, expected in (("/console/api/overview", 403), ("/api/2/things", 401)):
            async with rig.http.get(f"{rig.url}{path}", headers=headers) as response:
                assert response.status == expected, path


async def test_the_page_s_own_origin_is_taken() -> None:
    async with a_console() as rig:
        own = rig.url
        for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": own}):
            async with rig.http.get(
                f"{own}/console/api/overview", headers={**HEADER, **headers}
            ) as response:
                assert response.status == 200


async def test_the_session_is_the_user_of_things_and_the_operator_of_connections() -> None:
    async with a_console(operator=False) as rig:
        assert (await rig.ask("/api/2/things"))[0] == 401
        await rig.sign_in("ditto")
        assert (await rig.ask("/api/2/whoami"))[1]["defaultSubject"] == "nginx:ditto"
        thing = {"attributes": {"a": 1}}
        assert (await rig.ask("/api/2/things/org.acme:lamp", "PUT", thing))[0] == 201
        status, found = await rig.sign_in("devops")
        assert (status, found["operator"], found["ditto"]) == (200, True, "ditto")
        assert (await rig.ask("/api/2/things/org.acme:lamp"))[1]["attributes"] == {"a": 1}


async def test_an_operator_alone_is_no_user_of_things_and_devops_takes_no_session() -> None:
    async with a_console() as rig:
        status, _ = await rig.ask("/api/2/things")
        assert status == 401
        assert (await rig.ask("/devops/logging"))[0] == 401


async def test_a_refusal_does_not_make_the_browser_ask_for_a_password() -> None:
    async with a_console() as rig:
        url = f"{rig.url}/api/2/things"
        async with rig.http.get(url, headers=HEADER) as response:
            assert (response.status, response.headers.get("WWW-Authenticate")) == (401, None)
        async with rig.http.get(url) as response:
            assert response.headers["WWW-Authenticate"] == 'Basic realm="Ditto"'


async def test_who_signs_out_is_out_and_the_old_cookie_is_worth_nothing() -> None:
    async with a_console() as rig:
        cookie = next(c.value for c in rig.http.cookie_jar if c.key == "twinspan_console")
        again = {"Cookie": f"twinspan_console={cookie}"}
        rig.http.cookie_jar.clear()
        assert (await rig.ask("session", **again))[0] == 200
        assert (await rig.ask("session", "DELETE", **again))[0] == 204
        assert (await rig.ask("session", **again))[0] == 401
        assert (await rig.ask("overview", **again))[0] == 401


async def test_users_of_things_see_no_more_of_the_overview_than_its_parts() -> None:
    async with a_console(operator=False) as rig:
        await rig.sign_in("ditto")
        status, found = await rig.ask("overview")
        assert status == 200
        assert found["parts"]["kube"] is False
        assert {"modules", "endpoints", "counts"}.isdisjoint(found)
        for path in ("nodes", "tenants", "plots", "registry/v1/tenants", "tail?tenant=x"):
            assert (await rig.ask(path))[1]["error"] == "console:operator.needed", path


async def test_what_this_process_has_not_says_so() -> None:
    async with a_console() as rig:
        for path in ("nodes", "devices", "workloads", "events"):
            status, found = await rig.ask(path)
            assert (status, found["error"]) == (501, "console:part.missing"), path


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"user": 1, "password": "x"}', 400),
        (b'{"user": "a\\nb", "password": "x"}', 400),
        (b'{"user": "ditto", "password": "\\ud800"}', 400),
        (b"[" * 100_000, 413),
        (b'{"user": "' + b"x" * 70_000 + b'"}', 413),
    ],
    ids=["broken", "list", "number", "line-break", "surrogate", "deep", "long"],
)
async def test_odd_bodies_are_refused(body: bytes, status: int) -> None:
    async with a_console(operator=False) as rig:
        headers = {**HEADER, "Content-Type": "application/json"}
        url = f"{rig.url}/console/api/session"
        async with rig.http.post(url, data=body, headers=headers) as response:
            assert response.status == status
            assert set(await response.json()) >= {"status", "error", "message"}


async def test_other_methods_and_paths_are_told() -> None:
    async with a_console() as rig:
        status, found = await rig.ask("overview", "POST", {})
        assert (status, found["error"]) == (405, "method.notallowed")
        assert (await rig.ask("nothing/here"))[0] == 404
        assert (await rig.ask("../../etc/passwd"))[0] in (404, 200)


async def test_the_registry_s_api_is_the_registry_s_own() -> None:
    async with a_console() as rig:
        assert (await rig.ask("registry/v1/tenants/acme", "POST", {}))[0] == 201
        assert (await rig.ask("tenants"))[1]["items"] == [{"id": "acme", "enabled": True}]
        assert (await rig.ask("registry/v1/devices/acme/dev-1", "POST", {}))[0] == 201
        secret = [{"type": "hashed-password", "auth-id": "a", "secrets": [{"pwd-plain": "pw"}]}]
        assert (await rig.ask("registry/v1/credentials/acme/dev-1", "PUT", secret))[0] == 204
        found = await rig.ask("registry/v1/credentials/acme/dev-1")
        assert "pw-plain" not in str(found)
        assert "pwd-plain" not in str(found)
        assert "pwd-hash" not in str(found)
        status, found = await rig.ask("registry/v1/tenants/other")
        assert (status, set(found)) == (404, {"error"})
        assert (await rig.ask("registry/v1/traffic/acme"))[0] == 404


async def test_answers_carry_what_keeps_a_browser_from_guessing() -> None:
    async with a_console() as rig:
        async with rig.http.get(f"{rig.url}/console/api/overview", headers=HEADER) as response:
            found = response.headers
        assert found["Cache-Control"] == "no-store"
        assert found["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in found["Content-Security-Policy"]
        assert "unsafe" not in found["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in found
