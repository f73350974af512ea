"""Kafka properties as operators write them, for Java clients or for librdkafka, as librdkafka takes them.

What the messaging itself promises is not up to the operator: idempotent producing, offsets that are stored
when a command has its outcome. What only means something to a Java client is left out; what cannot be
honoured, e.g. a Java key store, is refused.
Source: Hono, admin guide Kafka Client Configuration; librdkafka `CONFIGURATION.md`; Kafka, Security.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from gateway.config.hono import Kafka
from gateway.errors import InvalidSetting

Property: TypeAlias = str | int | float | bool
Properties: TypeAlias = dict[str, Property]

GROUP: Final = "cmd-router-group"
PATH: Final = "hono.kafka"

_COMMON: Final[Mapping[str, Property]] = {
    "client.id": "twinspan",
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1_000,
    "log.connection.close": False,
    "socket.keepalive.enable": True,
}
_PRODUCER: Final[Mapping[str, Property]] = {
    "delivery.timeout.ms": 2_500,
    "request.timeout.ms": 750,
    "linger.ms": 2,
    "retry.backoff.ms": 50,
    "partitioner": "murmur2_random",  # what Java's producers use: one device, one partition, whoever sends
    "queue.buffering.max.kbytes": 65_536,
}
_PRODUCER_FIXED: Final[Mapping[str, Property]] = {"enable.idempotence": True}
_CONSUMER: Final[Mapping[str, Property]] = {
    "group.id": GROUP,
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "topic.metadata.refresh.interval.ms": 10_000,  # how soon the topic of a new tenant is found
    "queued.max.messages.kbytes": 8_192,
    "session.timeout.ms": 10_000,  # a member that was killed holds its partitions for that long
    "heartbeat.interval.ms": 2_000,
}
_CONSUMER_FIXED: Final[Mapping[str, Property]] = {
    "enable.auto.commit": True,  # of the offsets that we store
    "enable.auto.offset.store": False,
    "allow.auto.create.topics": True,
}

_JAVA_ONLY: Final = frozenset(
    {
        "key.serializer", "value.serializer", "key.deserializer", "value.deserializer", "max.block.ms",
        "max.poll.records", "metric.reporters", "client.rack.selector", "ssl.trustmanager.algorithm",
        "ssl.keymanager.algorithm", "ssl.protocol", "ssl.enabled.protocols", "ssl.provider",
        "send.buffer.bytes", "receive.buffer.bytes", "default.api.timeout.ms",
        "hono.offsets.commit.record.completion.timeout.millis", "hono.offsets.skip.recommit.period.seconds",
    }
)  # fmt: skip
"""Properties without a counterpart whose absence changes nothing that we promise."""

_ASSIGNORS: Final = {
    "org.apache.kafka.clients.consumer.CooperativeStickyAssignor": "cooperative-sticky",
    "org.apache.kafka.clients.consumer.RangeAssignor": "range",
    "org.apache.kafka.clients.consumer.RoundRobinAssignor": "roundrobin",
}
_JAAS_LOGINS: Final = ("ScramLoginModule", "PlainLoginModule")
_JAAS_OPTION: Final = re.compile(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')


def producer_properties(settings: Kafka) -> Properties:
    """Return the configuration of the producer.

    Errors: InvalidSetting.
    """
    own = {"queue.buffering.max.messages": settings.max_queue}
    given = _given(settings, settings.producer_config, "producer_config")
    return {**_COMMON, **_PRODUCER, **own, **given, **_PRODUCER_FIXED}


def consumer_properties(settings: Kafka) -> Properties:
    """Return the configuration of the consumer of commands.

    Errors: InvalidSetting.
    """
    given = _given(settings, settings.consumer_config, "consumer_config")
    return {**_COMMON, **_CONSUMER, **given, **_CONSUMER_FIXED}


def admin_properties(settings: Kafka) -> Properties:
    """Return the configuration of the client that creates topics.

    Errors: InvalidSetting.
    """
    return {**_COMMON, **_given(settings, {}, "common_client_config")}


def delivery_seconds(properties: Mapping[str, Property]) -> float:
    """Return the time in which every record has its outcome; that of librdkafka where it is not bounded.

    Errors: InvalidSetting.
    """
    for name in ("message.timeout.ms", "delivery.timeout.ms"):
        value = str(properties.get(name, ""))
        if value and not value.isdigit():
            raise InvalidSetting(
                f"{PATH}.producer_config.{name}: expected milliseconds, got {value!r}"
            )
        if value and int(value):
            return int(value) / 1_000
    return 300.0


def _given(settings: Kafka, own: Mapping[str, str], branch: str) -> Properties:
    found: Properties = {"bootstrap.servers": settings.bootstrap_servers}
    for name, value in settings.common_client_config.items():
        found.update(translated(name, value, f"{PATH}.common_client_config"))
    for name, value in own.items():
        found.update(translated(name, value, f"{PATH}.{branch}"))
    return found


def translated(name: str, value: str, path: str) -> Properties:
    """Return what one property means to librdkafka.

    Errors: InvalidSetting where it cannot be honoured.
    """
    if name in _JAVA_ONLY:
        return {}
    translate = _TRANSLATIONS.get(name)
    return {name: value} if translate is None else translate(value, f"{path}.{name}")


def _jaas(value: str, path: str) -> Properties:
    """Read user and password from a login module's line."""
    options = dict(_JAAS_OPTION.findall(value))
    known = any(login in value for login in _JAAS_LOGINS)
    if not known or "username" not in options or "password" not in options:
        raise InvalidSetting(
            f"{path}: expected a ScramLoginModule or PlainLoginModule with username and password;"
            " other mechanisms are set by librdkafka's own sasl.* properties"
        )
    return {
        "sasl.username": _unescaped(options["username"]),
        "sasl.password": _unescaped(options["password"]),
    }


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _store_type(value: str, path: str) -> Properties:
    if value.upper() not in ("PEM", "PKCS12"):
        raise InvalidSetting(f"{path}: expected PEM or PKCS12, got {value!r}")
    return {}


def _trust_store(value: str, path: str) -> Properties:
    if value.lower().endswith((".jks", ".p12", ".pkcs12", ".pfx")):
        raise InvalidSetting(f"{path}: expected a PEM file, got {value!r}")
    return {"ssl.ca.location": value}


def _assignors(value: str, path: str) -> Properties:
    names = [name.strip() for name in value.split(",")]
    if any("." in name and name not in _ASSIGNORS for name in names):
        raise InvalidSetting(f"{path}: expected one of {sorted(_ASSIGNORS)}, got {value!r}")
    return {"partition.assignment.strategy": ",".join(_ASSIGNORS.get(n, n) for n in names)}


def _buffer_memory(value: str, path: str) -> Properties:
    if not value.isdigit() or int(value) < 1_024:
        raise InvalidSetting(f"{path}: expected bytes, at least 1024, got {value!r}")
    return {"queue.buffering.max.kbytes": int(value) // 1_024}


def _endpoint_check(value: str, _path: str) -> Properties:
    return {"ssl.endpoint.identification.algorithm": value or "none"}


_TRANSLATIONS: Final[Mapping[str, Callable[[str, str], Properties]]] = {
    "sasl.jaas.config": _jaas,
    "ssl.truststore.location": _trust_store,
    "ssl.truststore.certificates": lambda value, _: {"ssl.ca.pem": value},
    "ssl.truststore.type": _store_type,
    "ssl.keystore.type": _store_type,
    "ssl.keystore.certificate.chain": lambda value, _: {"ssl.certificate.pem": value},
    "ssl.keystore.key": lambda value, _: {"ssl.key.pem": value},
    "ssl.endpoint.identification.algorithm": _endpoint_check,
    "partition.assignment.strategy": _assignors,
    "buffer.memory": _buffer_memory,
    "enable.idempotence": lambda _value, _path: {},
    "enable.auto.commit": lambda _value, _path: {},
}
