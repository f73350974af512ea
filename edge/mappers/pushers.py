"""The push methods that are there, by their names in `pushMethod`."""

from __future__ import annotations

from collections.abc import Mapping

from edge.mappers.pushhttp import make_http
from edge.mappers.pushinflux import make_influx
from edge.mappers.pushing import PusherFactory
from edge.mappers.pushmqtt import make_mqtt_pusher
from edge.mappers.pushmysql import MysqlServers
from edge.mappers.pushotel import make_otel
from edge.mappers.pushredis import RedisServers
from edge.mappers.pushtdengine import make_tdengine


def make_pushers() -> Mapping[str, PusherFactory]:
    """Return the factories; properties that go to one Redis or MySQL server share a connection."""
    return {
        "http": make_http,
        "mqtt": make_mqtt_pusher,
        "otel": make_otel,
        "influxdb2": make_influx,
        "redis": RedisServers().make,
        "mysql": MysqlServers().make,
        "TDEngine": make_tdengine,
    }
