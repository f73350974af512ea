"""The push method `otel`: gauges over OTLP/HTTP as JSON, one metric for each property.

Shape: the metric has the property's name; the resource says the device. Truth values are 0 and 1; texts are
no metrics and are refused. A URL without a path takes `/v1/metrics`.
Source: KubeEdge reference, section 16.2; OpenTelemetry protocol 1.x, JSON encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from edge.mappers.pushhttp import DEFAULT_SECONDS, post
from edge.mappers.pushing import AT_ONCE, Sample
from gateway.errors import Rejected
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import text

HEADERS = {"Content-Type": "application/json"}


class OtelPusher:
    """One receiver."""

    at_once = AT_ONCE

    def __init__(self, url: str) -> None:
        self._url = url

    async def push(self, samples: Sequence[Sample]) -> None:
        await post(self._url, HEADERS, msgspec.json.encode(metrics_of(samples)), DEFAULT_SECONDS)

    async def close(self) -> None:
        """Each request has a connection of its own."""


def metrics_of(samples: Sequence[Sample]) -> JsonObject:
    """Write the samples of one property. Errors: Rejected when they are no numbers."""
    first = samples[0]
    points: list[Json] = [_point(sample) for sample in samples]
    metric: JsonObject = {"name": first.name, "gauge": {"dataPoints": points}}
    resource: JsonObject = {
        "attributes": [
            _attribute("service.name", "twinspan-edge"),
            _attribute("device.id", str(first.device)),
        ]
    }
    scope: JsonObject = {"scope": {"name": "twinspan"}, "metrics": [metric]}
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [scope]}]}


def _attribute(key: str, value: str) -> JsonObject:
    return {"key": key, "value": {"stringValue": value}}


def _point(sample: Sample) -> JsonObject:
    at = str(sample.at * 1_000_000)
    if isinstance(sample.value, str):
        raise Rejected(f"{sample.name}: a text is no metric")
    if isinstance(sample.value, float):
        return {"timeUnixNano": at, "asDouble": sample.value}
    return {"timeUnixNano": at, "asInt": str(int(sample.value))}


def make_otel(config: JsonObject) -> OtelPusher:
    """Read `otel` of a `pushMethod`. Errors: Rejected."""
    url = text(config.get("endpointURL"))
    if not url.startswith(("http://", "https://")):
        raise Rejected("pushMethod.otel.endpointURL: expected an http or https URL")
    is_bare = urlsplit(url).path in ("", "/")
    return OtelPusher(f"{url.rstrip('/')}/v1/metrics" if is_bare else url)
