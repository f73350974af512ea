"""The push method `dbMethod.influxdb2`: line protocol to InfluxDB's write API, many samples a request.

Shape: `<measurement>,<tags> <fieldKey>=<value> <ns>`; without `fieldKey` the property's name. The token comes
from the environment variable `TOKEN`, never from the Device.
Source: KubeEdge reference, section 16.2; InfluxDB 2, write API and line protocol.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from edge.mappers.pushhttp import DEFAULT_SECONDS, post
from edge.mappers.pushing import AT_ONCE, Sample
from gateway.errors import Rejected
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping, text, texts
from gateway.wire.cloudedge.values import Typed

_NAME = str.maketrans({",": "\\,", " ": "\\ "})
_KEY = str.maketrans({",": "\\,", " ": "\\ ", "=": "\\="})
_TEXT = str.maketrans({'"': '\\"', "\\": "\\\\"})


class InfluxPusher:
    """One measurement in one bucket."""

    at_once = AT_ONCE

    def __init__(self, url: str, token: str, head: str, field_key: str) -> None:
        self._url = url
        self._headers = {"Content-Type": "text/plain; charset=utf-8"}
        if token:
            self._headers["Authorization"] = f"Token {token}"
        self._head = head
        self._field_key = field_key

    async def push(self, samples: Sequence[Sample]) -> None:
        lines = [self._line(sample) for sample in samples]
        await post(self._url, self._headers, "\n".join(lines).encode(), DEFAULT_SECONDS)

    def _line(self, sample: Sample) -> str:
        key = (self._field_key or sample.name).translate(_KEY)
        return f"{self._head} {key}={field_value(sample.value)} {sample.at * 1_000_000}"

    async def close(self) -> None:
        """Each request has a connection of its own."""


def field_value(value: Typed) -> str:
    """Write a value as line protocol has it: whole numbers with `i`, texts in quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}i"
    return repr(value) if isinstance(value, float) else f'"{value.translate(_TEXT)}"'


def line_head(measurement: str, tags: Mapping[str, str]) -> str:
    """Write measurement and tags. Errors: Rejected for what no line can hold."""
    parts = [measurement.translate(_NAME)]
    parts += [
        f"{k.translate(_KEY)}={v.translate(_KEY)}" for k, v in sorted(tags.items()) if k and v
    ]
    head = ",".join(parts)
    if not measurement or any(part in head for part in ("\n", "\r", "\\\\")) or head.endswith("\\"):
        raise Rejected(
            "influxdb2DataConfig: a measurement is needed, without line ends and \\ pairs"
        )
    return head


def make_influx(config: JsonObject) -> InfluxPusher:
    """Read `influxdb2` of a `dbMethod`. Errors: Rejected."""
    client = mapping(config.get("influxdb2ClientConfig"))
    data = mapping(config.get("influxdb2DataConfig"))
    url, org, bucket = (text(client.get(key)) for key in ("url", "org", "bucket"))
    if not url.startswith(("http://", "https://")) or not bucket:
        raise Rejected("influxdb2ClientConfig: expected url (http or https), org and bucket")
    head = line_head(text(data.get("measurement")), texts(data.get("tag")))
    field_key = text(data.get("fieldKey"))
    if "\n" in field_key or field_key.endswith("\\"):
        raise Rejected("influxdb2DataConfig.fieldKey: no line ends, no \\ at the end")
    query = urlencode({"org": org, "bucket": bucket, "precision": "ns"})
    token = os.environ.get("TOKEN", "")
    return InfluxPusher(f"{url.rstrip('/')}/api/v2/write?{query}", token, head, field_key)
