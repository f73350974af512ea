"""The push method `http`: one POST of a form for each sample, as KubeEdge's mappers send it.

Shape: `<property>=<value>&time=<yyyy-mm-dd hh:mm:ss>`, percent-encoded, the time in UTC, to
`<hostName>:<port><requestPath>`. Source: KubeEdge reference, section 16.2, and its mapper template.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from edge.mappers.pushing import ONE, Sample
from edge.mappers.pushtimes import clock_text
from gateway.errors import Rejected, Undeliverable
from gateway.model.json import JsonObject
from gateway.runtime.small_client import fetch

DEFAULT_SECONDS = 10
MAX_SECONDS = 30
MAX_ANSWER = 65_536
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
AGAIN = (408, 425, 429)


class HttpPusher:
    """One URL."""

    at_once = ONE

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._seconds = seconds

    async def push(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            body = urlencode({sample.name: sample.text, "time": clock_text(sample.at)}).encode()
            await post(self._url, FORM, body, self._seconds)

    async def close(self) -> None:
        """Each request has a connection of its own."""


async def post(url: str, headers: dict[str, str], body: bytes, seconds: float) -> None:
    """POST. Errors: Undeliverable when it may be tried again, Rejected when not."""
    answer = await fetch(
        "POST", url, headers=headers, body=body, seconds=seconds, max_body=MAX_ANSWER
    )
    if answer.status >= 500 or answer.status in AGAIN:
        raise Undeliverable(f"answered {answer.status}")
    if not 200 <= answer.status < 300:
        raise Rejected(f"answered {answer.status}")


def make_http(config: JsonObject) -> HttpPusher:
    """Read `http` of a `pushMethod`. Errors: Rejected."""
    host, port = config.get("hostName"), config.get("port")
    path, seconds = config.get("requestPath", "/"), config.get("timeout")
    if not isinstance(host, str) or not host:
        raise Rejected("pushMethod.http.hostName: expected text")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65_536:
        raise Rejected("pushMethod.http.port: expected 1 to 65535")
    if not isinstance(path, str):
        raise Rejected("pushMethod.http.requestPath: expected text")
    base = host if host.startswith(("http://", "https://")) else f"http://{host}"
    given = seconds if isinstance(seconds, int) and seconds > 0 else DEFAULT_SECONDS
    url = f"{base.rstrip('/')}:{port}/{path.removeprefix('/')}"
    return HttpPusher(url, float(min(given, MAX_SECONDS)))
