"""Rows of the adapters' contract: what devices send, and what applications get of it."""

from __future__ import annotations

from dataclasses import replace

from gateway.model.message import EMPTY_NOTIFICATION
from tests.contract.adapter_faces import OCTETS
from tests.contract.adapter_service import MAX_PAYLOAD
from tests.contract.adapter_table import (
    AN_EVENT,
    ANY,
    BAD,
    BEHIND,
    HANDED_OVER,
    LASTING,
    NO_DEVICE,
    OF_4712,
    REQUESTS,
    UNCOUNTED,
    Consumer,
    Row,
    Tells,
    Who,
    everywhere,
    failed,
    unheard,
)

GOOD = (
    Row(says="telemetry at least once is accepted by its consumer", seen={}),
    Row(says="telemetry at most once", qos=0, tells=HANDED_OVER, seen={}),
    Row(says="an event with a consumer", **AN_EVENT, seen={}),
    Row(says="an event is kept without a consumer", **AN_EVENT, consumer=Consumer.NONE, seen={}),
    Row(says="the short name of telemetry", endpoint="t", seen={}),
    Row(says="the short name of events", endpoint="e", seen={}),
    Row(says="a device names itself", path="/{t}/4711", seen={}),
    Row(says="a device names itself without the tenant", path="//4711", seen={}),
    Row(says="a gateway sends for its device", **BEHIND, seen=OF_4712),
    Row(says="a gateway leaves the tenant out", who=Who.GATEWAY, path="//4712", seen=OF_4712),
    Row(says="a gateway sends an event for its device", **AN_EVENT, **BEHIND, seen=OF_4712),
    Row(says="a gateway sends for itself", who=Who.GATEWAY, seen={"device": "gw-1"}),
    Row(
        says="a member of a group is a gateway",
        who=Who.OTHER_GATEWAY,
        path="/{t}/4712",
        devices={"gw-2": {"memberOf": ["g"]}, "4712": {"viaGroups": ["g"]}},
        seen=OF_4712,
    ),
)

CONTENT = (
    Row(says="no content type", content_type=None, seen={"content_type": OCTETS}),
    Row(
        says="the device's default content type",
        content_type=None,
        devices={"4711": {"defaults": {"content-type": "application/x-d"}}},
        tenant={"defaults": {"content-type": "application/x-t"}},
        seen={"content_type": "application/x-d"},
    ),
    Row(
        says="a content type of its own beats the default",
        devices={"4711": {"defaults": {"content-type": "application/x-d"}}},
        seen={},
    ),
    Row(
        says="defaults become properties of their JSON types",
        tenant={"defaults": {"a": 1, "b": "t", "to": "x", "message-id": "x"}},
        devices={"4711": {"defaults": {"b": "d", "c": True, "d": 1.5, "ttl-command-response": 5}}},
        seen={"more": {"a": 1, "b": "d", "c": True, "d": 1.5}},
    ),
    Row(
        says="an empty payload with a content type",
        payload=b"",
        seen={"body": None},
    ),
    Row(
        says="an empty notification",
        payload=b"",
        content_type=EMPTY_NOTIFICATION,
        seen={"body": None, "content_type": EMPTY_NOTIFICATION},
    ),
    Row(
        says="an empty notification as event",
        **AN_EVENT,
        payload=b"",
        content_type=EMPTY_NOTIFICATION,
        seen={"body": None, "content_type": EMPTY_NOTIFICATION},
    ),
    Row(
        says="an empty payload without content type",
        payload=b"",
        content_type=None,
        tells=failed(400, ANY),
        **BAD,
    ),
    Row(
        says="a payload that says it is empty",
        content_type=EMPTY_NOTIFICATION,
        tells=failed(400, f"content type [{EMPTY_NOTIFICATION}] does not match payload"),
        **BAD,
    ),
    Row(
        says="the largest payload",
        payload=b"x" * (MAX_PAYLOAD - 200),
        content_type=OCTETS,
        seen={},
    ),
    Row(
        says="a payload that is too large",
        payload=b"x" * (MAX_PAYLOAD + 200),
        tells=Tells(
            http="413 *",
            watching="closed",
            amqp="detached amqp:link:message-size-exceeded",
            coap="4.13 *",
        ),
        **UNCOUNTED,
    ),
    Row(
        says="sizes count in steps of the tenant's smallest message",
        tenant={"minimum-message-size": 4096},
        seen={},
        size=4096,
    ),
)

LIFE = (
    Row(says="an event's time to live", **AN_EVENT, ttl=10, seen={"ttl": 10.0}),
    Row(says="telemetry takes no time to live from a device", ttl=10, seen={}),
    Row(
        says="the tenant's longest time to live",
        **AN_EVENT,
        ttl=100,
        tenant={"resource-limits": {"max-ttl": 20}},
        seen={"ttl": 20.0},
    ),
    Row(
        says="the tenant's longest time to live, not asked for",
        **AN_EVENT,
        tenant={"resource-limits": {"max-ttl": 20}},
        seen={"ttl": 20.0},
    ),
    Row(
        says="the device's default time to live",
        **AN_EVENT,
        tenant={"defaults": {"ttl": 40}},
        devices={"4711": {"defaults": {"ttl": 30}}},
        seen={"ttl": 30.0},
    ),
    Row(
        says="telemetry at most once has a default of its own",
        qos=0,
        tenant={"defaults": {"ttl-telemetry-qos0": 7, "ttl-telemetry-qos1": 8, "ttl": 9}},
        tells=HANDED_OVER,
        seen={"ttl": 7.0},
    ),
    Row(
        says="telemetry at least once has a default of its own",
        tenant={
            "defaults": {"ttl-telemetry-qos0": 7, "ttl-telemetry-qos1": 8},
            "resource-limits": {"max-ttl-telemetry-qos1": 6},
        },
        seen={"ttl": 6.0},
    ),
)

ADDRESSES = (
    Row(says="another tenant", path="/other/4711", tells=failed(403, ANY), **BAD),
    Row(
        says="a tenant alone",
        path="/{t}",
        tells=replace(failed(400, ANY), http="404 html", coap="4.04 *"),
        only=LASTING,
        **BAD,
    ),
    Row(
        says="a tenant alone is no resource where paths are",
        path="/{t}",
        tells=replace(failed(400, ANY), http="404 html", coap="4.04 *"),
        only=REQUESTS,
        **UNCOUNTED,
    ),
    Row(
        says="a device that nobody knows, through a gateway",
        who=Who.GATEWAY,
        path="/{t}/none",
        tells=failed(404, NO_DEVICE),
        **BAD,
    ),
    Row(
        says="a device that is off, through a gateway",
        **BEHIND,
        devices={"4712": {"enabled": False}},
        tells=failed(404, NO_DEVICE),
        **BAD,
    ),
    Row(
        says="a device of another gateway",
        who=Who.OTHER_GATEWAY,
        path="/{t}/4712",
        tells=failed(403, ANY),
        **BAD,
    ),
    Row(
        says="a device is no gateway of another, and not told of its errors",
        path="/{t}/4712",
        tells=everywhere("closed", "watching", "watching5", base=failed(403, ANY)),
        **BAD,
    ),
    Row(
        says="an endpoint that nobody knows",
        endpoint="metering",
        tells=replace(failed(404, ANY), http="404 html"),
        **UNCOUNTED,
    ),
    Row(
        says="a topic that begins with a slash",
        endpoint="/telemetry",
        tells=failed(400, ANY),
        only=("mqtt3", "mqtt5", "mqtt3-watching", "mqtt5-watching"),
        **UNCOUNTED,
    ),
    Row(
        says="an event at most once",
        **AN_EVENT,
        qos=0,
        tells=replace(unheard(failed(400, ANY)), http="400 *", coap="4.00 *"),
        only=("http", "mqtt3", "mqtt5", "mqtt3-watching", "mqtt5-watching", "coap"),
        **UNCOUNTED,
    ),
    Row(
        says="QoS 2",
        qos=2,
        tells=replace(failed(400, ANY), http="400 *"),
        only=("http",),
        **UNCOUNTED,
    ),
)

UPLOADS = (*GOOD, *CONTENT, *LIFE, *ADDRESSES)
