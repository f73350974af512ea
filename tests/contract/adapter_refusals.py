"""Rows of the adapters' contract: who may not send, and what becomes of what nobody takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.contract.adapter_faces import NOTHING
from tests.contract.adapter_table import (
    AN_EVENT,
    ANY,
    BAD,
    BEHIND,
    HANDED_OVER,
    LASTING,
    NO_CONSUMER,
    NO_DEVICE,
    NO_GATEWAY,
    NO_TENANT,
    NOT_LOGGED_IN,
    NOT_PROCESSED,
    REQUESTS,
    TOO_MUCH,
    UNAUTHORIZED,
    UNCOUNTED,
    Consumer,
    Row,
    Tells,
    Who,
    failed,
    refused,
    unheard,
)

VOLUME: dict[str, Any] = {
    "resource-limits": {
        "data-volume": {
            "effective-since": "2026-01-01T00:00:00Z",
            "max-bytes": 100,
            "period": {"mode": "days", "no-of-days": 30},
        }
    }
}
DURATION: dict[str, Any] = {
    "resource-limits": {
        "connection-duration": {
            "effective-since": "2026-01-01T00:00:00Z",
            "max-minutes": 10,
            "period": {"mode": "monthly"},
        }
    }
}

WHO = (
    Row(
        says="a wrong password",
        who=Who.WRONG_PASSWORD,
        tells=NOT_LOGGED_IN,
        **UNCOUNTED,
        attempts="unauthorized",
    ),
    Row(
        says="an unknown auth-id",
        who=Who.NOBODY,
        tells=NOT_LOGGED_IN,
        **UNCOUNTED,
        attempts="unauthorized",
    ),
    Row(
        says="a tenant that nobody knows",
        who=Who.UNKNOWN_TENANT,
        tells=NOT_LOGGED_IN,
        **UNCOUNTED,
        attempts="unauthorized",
    ),
    Row(
        says="a user name without tenant",
        who=Who.WITHOUT_TENANT,
        tells=NOT_LOGGED_IN,
        **UNCOUNTED,
        attempts="unauthorized",
    ),
    Row(
        says="credentials that are off",
        no_credentials=True,
        tells=NOT_LOGGED_IN,
        **UNCOUNTED,
        attempts="unauthorized",
    ),
    Row(says="no credentials at all", who=Who.STRANGER, tells=NOT_LOGGED_IN, **UNCOUNTED),
    Row(
        says="a tenant that is off",
        tenant={"enabled": False},
        tells=refused(403, NO_TENANT, connack=5, connack5=0x87, amqp=UNAUTHORIZED),
        attempts="unauthorized",
        **BAD,
    ),
    Row(
        says="an adapter that the tenant has not switched on",
        tenant={"adapters": [{"type": "hono-lora", "enabled": True}]},
        tells=refused(403, "adapter is disabled", connack=5, connack5=0x87, amqp=UNAUTHORIZED),
        attempts="adapter-disabled",
        **BAD,
    ),
    Row(
        says="adapters that are listed are off unless they say otherwise",
        tenant={
            "adapters": [{"type": f"hono-{name}"} for name in ("http", "mqtt", "amqp", "coap")]
        },
        tells=refused(403, "adapter is disabled", connack=5, connack5=0x87, amqp=UNAUTHORIZED),
        attempts="adapter-disabled",
        **BAD,
    ),
    Row(
        says="a device that is off",
        devices={"4711": {"enabled": False}},
        tells=refused(404, NO_DEVICE, connack=5, connack5=0x87, amqp="closed amqp:not-found"),
        attempts="registration-assertion-failure",
        **BAD,
    ),
    Row(
        says="a gateway that is off",
        **BEHIND,
        devices={"gw-1": {"enabled": False}},
        tells=refused(403, NO_GATEWAY, connack=5, connack5=0x87, amqp="closed amqp:not-found"),
        attempts="registration-assertion-failure",
        **BAD,
    ),
)

LIMITS = (
    Row(
        says="no more connections of the tenant",
        tenant={"resource-limits": {"max-connections": 0}},
        tells=refused(403, ANY, connack=5, connack5=0x97, amqp=UNAUTHORIZED),
        only=LASTING,
        attempts="tenant-connections-exceeded",
        **UNCOUNTED,
    ),
    Row(
        says="requests are no connections",
        tenant={"resource-limits": {"max-connections": 0}},
        only=REQUESTS,
        seen={},
    ),
    Row(
        says="the tenant's connection time is used up",
        tenant=DURATION,
        used_seconds=700,
        tells=refused(403, ANY, connack=5, connack5=0x97, amqp=UNAUTHORIZED),
        only=LASTING,
        attempts="connection-duration-exceeded",
        **UNCOUNTED,
    ),
    Row(
        says="the tenant's data volume is used up",
        tenant=VOLUME,
        used_bytes=100,
        tells=refused(429, TOO_MUCH, connack=5, connack5=0x97, amqp=UNAUTHORIZED),
        attempts="data-volume-exceeded",
        **BAD,
    ),
    Row(
        says="a message goes beyond the tenant's data volume",
        tenant=VOLUME,
        used_bytes=95,
        tells=failed(429, TOO_MUCH),
        **BAD,
    ),
    Row(
        says="an event goes beyond the tenant's data volume",
        **AN_EVENT,
        tenant=VOLUME,
        used_bytes=95,
        tells=failed(429, TOO_MUCH),
        **BAD,
    ),
    Row(says="data volume that is left", tenant=VOLUME, used_bytes=90, seen={}),
    Row(
        says="the adapter takes no more connections",
        service="full",
        tells=refused(503, ANY, connack=3, connack5=0x9C, amqp=UNAUTHORIZED),
        only=LASTING,
        attempts="adapter-connections-exceeded",
        **UNCOUNTED,
    ),
)

UNDELIVERED: dict[str, Any] = {"status": "undeliverable"}
CONSUMERS = (
    Row(says="nobody consumes", consumer=Consumer.NONE, tells=NO_CONSUMER, **UNDELIVERED),
    Row(
        says="nobody consumes, at most once",
        qos=0,
        consumer=Consumer.NONE,
        tells=unheard(NO_CONSUMER),
        **UNDELIVERED,
    ),
    Row(says="no credit", consumer=Consumer.HAS_NO_CREDIT, tells=NO_CONSUMER, **UNDELIVERED),
    Row(
        says="the consumer releases",
        consumer=Consumer.RELEASES,
        tells=NOT_PROCESSED,
        seen={},
        **UNDELIVERED,
    ),
    Row(
        says="the consumer rejects",
        consumer=Consumer.REJECTS,
        tells=failed(400, ANY),
        seen={},
        **BAD,
    ),
    Row(
        says="the consumer has no room",
        consumer=Consumer.HAS_NO_ROOM,
        tells=failed(
            503,
            "consumer rejected the message because a resource limit was exceeded,"
            " possibly a (tenant-specific) queue size limit",
        ),
        seen={},
        **UNDELIVERED,
    ),
    Row(
        says="the consumer forbids",
        consumer=Consumer.FORBIDS,
        tells=failed(403, ANY),
        seen={},
        **BAD,
    ),
    Row(
        says="the consumer breaks",
        consumer=Consumer.BREAKS,
        tells=failed(500, "Internal server error", shown="temporarily unavailable"),
        seen={},
        **UNDELIVERED,
    ),
    Row(
        says="the consumer could not deliver",
        consumer=Consumer.FAILS,
        tells=NOT_PROCESSED,
        seen={},
        **UNDELIVERED,
    ),
    Row(
        says="the consumer will never deliver",
        consumer=Consumer.REFUSES_HERE,
        tells=failed(
            404,
            "consumer declared message as undeliverable, it should not be redelivered",
        ),
        seen={},
        **BAD,
    ),
    Row(
        says="the consumer is silent",
        service="impatient",
        consumer=Consumer.IS_SILENT,
        tells=failed(
            503, "consumer failed to indicate in time whether it has processed the message"
        ),
        seen={},
        **UNDELIVERED,
    ),
    Row(
        says="the consumer dies",
        consumer=Consumer.DIES,
        tells=NOT_PROCESSED,
        seen={},
        **UNDELIVERED,
    ),
    Row(
        says="at most once does not wait for the consumer's word",
        qos=0,
        consumer=Consumer.REJECTS,
        tells=HANDED_OVER,
        seen={},
    ),
    Row(
        says="events do not wait for a consumer's word",
        **AN_EVENT,
        consumer=Consumer.HAS_NO_CREDIT,
        seen={},
    ),
)

WAITS = (
    Row(
        says="nobody commands a device that waits",
        ttd=1,
        seen={"more": {"ttd": 1}},
        ttd_label="expired",
    ),
    Row(
        says="the tenant bounds the wait",
        ttd=60,
        tenant={
            "adapters": [
                {"type": name, "enabled": True, "ext": {"max-ttd": 1}}
                for name in ("hono-http", "hono-coap")
            ]
        },
        seen={"more": {"ttd": 1}},
        ttd_label="expired",
    ),
    Row(
        says="a device that waits and cannot be heard",
        ttd=1,
        consumer=Consumer.NONE,
        tells=NO_CONSUMER,
        **UNDELIVERED,
    ),
)

QUIET = Tells(http="", mqtt="puback", mqtt5="puback 0x80", watching="", amqp="", coap="")
WISHES = (
    Row(
        says="on-error=ignore: acknowledged all the same",
        on_error="ignore",
        consumer=Consumer.NONE,
        tells=QUIET,
        only=("mqtt3", "mqtt5"),
        **UNDELIVERED,
    ),
    Row(
        says="on-error=skip-ack: no acknowledgement",
        on_error="skip-ack",
        consumer=Consumer.NONE,
        tells=replace(QUIET, mqtt=NOTHING, mqtt5=NOTHING),
        only=("mqtt3", "mqtt5"),
        **UNDELIVERED,
    ),
    Row(
        says="on-error=disconnect",
        on_error="disconnect",
        consumer=Consumer.NONE,
        tells=NO_CONSUMER,
        only=("mqtt3", "mqtt5"),
        **UNDELIVERED,
    ),
    Row(
        says="on-error that nobody knows",
        on_error="panic",
        consumer=Consumer.NONE,
        tells=NO_CONSUMER,
        only=("mqtt3", "mqtt5"),
        **UNDELIVERED,
    ),
)

STRANGER: dict[str, Any] = {"service": "open", "who": Who.STRANGER}
OPEN = (
    Row(says="a stranger names itself", **STRANGER, path="/{t}/4711", seen={}),
    Row(says="a stranger's event", **STRANGER, endpoint="event", path="/{t}/4711", seen={}),
    Row(
        says="a stranger of an unknown tenant",
        **STRANGER,
        path="/nowhere/4711",
        tells=failed(404, NO_TENANT),
        only=("http", "mqtt3", "mqtt5", "amqp", "coap"),
        **UNCOUNTED,
    ),
    Row(
        says="a stranger that is not registered",
        **STRANGER,
        path="/{t}/none",
        tells=failed(404, NO_DEVICE),
        only=("http", "mqtt3", "mqtt5", "amqp", "coap"),
        **BAD,
    ),
    Row(
        says="a stranger without a name",
        **STRANGER,
        tells=replace(failed(400, ANY), http="401 *", coap="4.01 *"),
        only=("http", "mqtt3", "mqtt5", "amqp"),
        **UNCOUNTED,
    ),
    Row(
        says="a login is judged where strangers may come too",
        service="open",
        who=Who.WRONG_PASSWORD,
        tells=NOT_LOGGED_IN,
        attempts="unauthorized",
        only=("http", *LASTING),
        **UNCOUNTED,
    ),
    Row(says="a device may log in where strangers may come too", service="open", seen={}),
)

REFUSALS = (*WHO, *LIMITS, *CONSUMERS, *WAITS, *WISHES, *OPEN)
