"""What a browser says of itself is nothing that a thing is told."""

from __future__ import annotations

from aiohttp.test_utils import make_mocked_request

from gateway.ditto.request import ditto_headers

BROWSER = {
    "Accept-Language": "en",
    "Cookie": "twinspan_console=secret",
    "Origin": "http://127.0.0.1:8080",
    "Priority": "u=1",
    "Referer": "http://127.0.0.1:8080/console/",
    "Sec-CH-UA": '"Chromium"',
    "Sec-Fetch-Site": "same-origin",
    "Sec-GPC": "1",
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0",
    "X-Twinspan-Console": "1",
}


def test_headers_of_browsers_and_of_the_console_go_no_further() -> None:
    said = {**BROWSER, "Content-Type": "text/plain", "X-Mine": "kept", "Timeout": "5"}
    request = make_mocked_request("POST", "/api/2/things/a:b/inbox/messages/c", headers=said)
    assert ditto_headers(request, "id") == {
        "content-type": "text/plain",
        "x-mine": "kept",
        "timeout": "5",
        "correlation-id": "id",
    }
