"""The push methods that are there, by their names in `pushMethod`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edge.mappers.pushhttp import make_http
from edge.mappers.pushinflux import make_influx
from edge.mappers.pushing import PusherFactory
from edge.mappers.pushmqtt import make_mqtt_pusher
from edge.mappers.pushotel import make_otel

PUSHERS: Mapping[str, PusherFactory] = MappingProxyType(
    {
        "http": make_http,
        "mqtt": make_mqtt_pusher,
        "otel": make_otel,
        "influxdb2": make_influx,
    }
)
