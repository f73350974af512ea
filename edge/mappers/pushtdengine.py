"""The push method `dbMethod.TDEngine`: rows by TDengine's REST interface, in the Device's own super table.

Shape: super table `<namespace>/<device>` with the columns of KubeEdge's mappers (`ts`, `deviceid`,
`propertyname`, `data`, `type`; tag `localtion`), a table `<namespace>/<device>/<property>` below it; `-` and
`.` of names become `_`. KubeEdge names the lower table by the property alone, and two devices cannot have the
same. User and password come from the environment variables `USERNAME` and `PASSWORD`.
Source: KubeEdge reference, section 16.2, and its mapper template; TDengine 3, REST connection.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from edge.mappers.pushaddress import read_address
from edge.mappers.pushhttp import AGAIN, DEFAULT_SECONDS, MAX_ANSWER
from edge.mappers.pushing import AT_ONCE, Sample
from edge.mappers.pushredis import type_name
from gateway.errors import GatewayError, Rejected, Undeliverable
from gateway.model.json import JsonObject
from gateway.runtime.small_client import fetch
from gateway.wire.cloudedge.devices import mapping, text

PORT = 6041
FIELD = "TDEngineClientConfig"
COLUMNS = "ts TIMESTAMP, deviceid BINARY(512), propertyname BINARY(128), data BINARY(512), type BINARY(64)"
NO_TABLE = 0x2603
_PARSER = range(0x2600, 0x2700)
"""Codes about what was sent: sent again, it would be refused again."""
_DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TABLE = re.compile(r"[A-Za-z0-9_/]{1,192}")
_PLAIN = re.compile(r"[^'\"\\`\x00-\x1f\x7f]{0,512}")
"""Texts that go into SQL: without quotes, backslashes and control characters."""


class _Answer(Struct, frozen=True):
    code: int = 0
    desc: str = ""


_answers = msgspec.json.Decoder(_Answer)


class TdenginePusher:
    """A property's samples to one database."""

    at_once = AT_ONCE

    def __init__(self, url: str, login: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "text/plain"}
        self._made = False

    async def push(self, samples: Sequence[Sample]) -> None:
        insert, create = insert_text(samples), create_text(samples[0])
        if not self._made:
            await self._run(create)
            self._made = True
        try:
            await self._run(insert)
        except GatewayError:
            self._made = False
            raise

    async def _run(self, sql: str) -> None:
        answer = await fetch(
            "POST",
            self._url,
            headers=self._headers,
            body=sql.encode(),
            seconds=DEFAULT_SECONDS,
            max_body=MAX_ANSWER,
        )
        try:
            found = _answers.decode(answer.body)
        except msgspec.MsgspecError:
            found = _Answer(-1, "an answer that is not TDengine's")
        if answer.status == 200 and found.code == 0:
            return
        said = f"TDengine: {answer.status}, code {found.code:#x}: {found.desc[:200]}"
        is_again = answer.status >= 500 or answer.status in (*AGAIN, 401, 403)
        if (found.code in _PARSER and found.code != NO_TABLE) or (
            answer.status >= 400 and not is_again
        ):
            raise Rejected(said)
        raise Undeliverable(said)

    async def close(self) -> None:
        """Each request has a connection of its own."""


def table_name(*parts: str) -> str:
    """Return a table's name, without its quotes. Errors: Rejected for one that is not put into SQL."""
    name = "/".join(part.replace("-", "_").replace(".", "_") for part in parts)
    if not _TABLE.fullmatch(name):
        raise Rejected(f"no table {name[:200]!r}: expected at most 192 letters, digits, _ and /")
    return name


def create_text(sample: Sample) -> str:
    """Write how a Device's super table is made."""
    upper = table_name(sample.device.namespace, sample.device.name)
    return f"CREATE STABLE IF NOT EXISTS `{upper}` ({COLUMNS}) TAGS (localtion BINARY(128))"


def insert_text(samples: Sequence[Sample]) -> str:
    """Write how one property's samples are inserted. Errors: Rejected for what is not put into SQL."""
    first = samples[0]
    upper = table_name(first.device.namespace, first.device.name)
    lower = table_name(first.device.namespace, first.device.name, first.name)
    into = f"INSERT INTO `{lower}` USING `{upper}` TAGS ({_quoted(first.name)})"
    return f"{into} VALUES {' '.join(_row(sample) for sample in samples)}"


def _row(sample: Sample) -> str:
    at = datetime.fromtimestamp(sample.at / 1_000, UTC)
    ts = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1_000:03d}Z"
    cells = (ts, str(sample.device), sample.name, sample.text, type_name(sample.value))
    return f"({', '.join(_quoted(cell) for cell in cells)})"


def _quoted(value: str) -> str:
    if not _PLAIN.fullmatch(value):
        raise Rejected("a text with quotes, backslashes or control characters is not put into SQL")
    return f"'{value}'"


def make_tdengine(config: JsonObject) -> TdenginePusher:
    """Read `TDEngine` of a `dbMethod`. Errors: Rejected."""
    client = mapping(config.get(FIELD))
    database, said = text(client.get("dbName")), text(client.get("addr"))
    if not _DATABASE.fullmatch(database):
        raise Rejected(f"{FIELD}.dbName: expected 1 to 64 letters, digits and _, no digit first")
    is_url = urlsplit(said).scheme in ("http", "https")
    plain = (
        said.replace("https://", "tls://", 1).replace("http://", "tcp://", 1) if is_url else said
    )
    address = read_address(f"{FIELD}.addr", plain, PORT)
    user, password = os.environ.get("USERNAME", ""), os.environ.get("PASSWORD", "")
    if password:
        address.require_secrecy(f"{FIELD}.addr", "the password")
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "https" if address.is_secure else "http"
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    return TdenginePusher(f"{scheme}://{host}:{address.port}/rest/sql/{database}", login)
