"""What devices try, and what then happens on all sides: the one table of the adapters' contract.

A row says what a device sends, what the registry and the consumer make of it, what the device is told in each
protocol, what the application gets and what is counted. Source: Hono, user guides of the adapters, concepts
and APIs; texts are those that Hono's clients know.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.contract.adapter_faces import JSON, NOTHING, Attempt

# --- who sends, who consumes -------------------------------------------------------------------------


class Who(enum.Enum):
    """User name (before `@tenant`) and password of a device; the value is (auth-id, password)."""

    DEVICE = ("sensor1", "hono-secret")
    GATEWAY = ("gw", "gw-secret")
    OTHER_GATEWAY = ("gw2", "gw2-secret")
    WRONG_PASSWORD = ("sensor1", "wrong")
    NOBODY = ("nobody", "hono-secret")
    UNKNOWN_TENANT = ("sensor1@nowhere", "hono-secret")
    WITHOUT_TENANT = ("sensor1", "hono-secret ")
    STRANGER = ("", "")


class Consumer(enum.Enum):
    """What the application at the other end does with a message."""

    NONE = "is not there"
    ACCEPTS = "accepts"
    RELEASES = "releases"
    REJECTS = "rejects"
    HAS_NO_ROOM = "rejects for a resource limit"
    FORBIDS = "rejects as unauthorized"
    BREAKS = "rejects for an internal error"
    FAILS = "modifies: delivery failed"
    REFUSES_HERE = "modifies: undeliverable here"
    HAS_NO_CREDIT = "has no credit"
    IS_SILENT = "is silent"
    DIES = "dies with the message"


# --- what devices are told ---------------------------------------------------------------------------

CONDITIONS = {
    400: "hono:bad-request",
    401: "amqp:unauthorized-access",
    403: "amqp:unauthorized-access",
    404: "amqp:not-found",
    429: "amqp:resource-limit-exceeded",
}

ANY = "*"
"""Stands for any text at the end of what a device is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tells:
    """What a device is told, by protocol; see `adapter_faces`."""

    http: str
    mqtt: str = "closed"
    mqtt5: str | None = None
    watching: str
    watching5: str | None = None
    amqp: str
    coap: str

    def of(self, face: str) -> str:
        """What one face is told."""
        return {
            "http": self.http,
            "mqtt3": self.mqtt,
            "mqtt5": self.mqtt5 or self.mqtt,
            "mqtt3-watching": self.watching,
            "mqtt5-watching": self.watching5 or self.watching,
            "amqp": self.amqp,
            "coap": self.coap,
        }[face]


ACCEPTED = Tells(http="202", mqtt="puback", watching="puback", amqp="accepted", coap="2.04")
HANDED_OVER = replace(ACCEPTED, mqtt=NOTHING, watching=NOTHING, amqp=NOTHING)
"""QoS 0: whoever is answered at all is told that all is well."""


def failed(status: int, text: str, *, shown: str | None = None) -> Tells:
    """A message that failed with one of Hono's texts; `shown` is what HTTP and CoAP say instead."""
    condition = CONDITIONS.get(status)
    code = f"{status // 100}.{status % 100:02d}"
    polite = min(status, 503)
    shown = text if shown is None else shown
    return Tells(
        http=f"{503 if status >= 500 else status} {shown}",
        watching=f"{polite} {text}; puback",
        watching5=f"{polite} {text}; puback 0x80",
        amqp=f"rejected {condition}: {text}" if condition else "released",
        coap=f"{'5.03' if status >= 500 else code} {shown}",
    )


def unheard(tells: Tells) -> Tells:
    """The same at QoS 0: nobody is acknowledged."""
    told = tells.watching.partition("; ")[0]
    return replace(tells, watching=told, watching5=told, amqp=NOTHING)


def refused(
    status: int, text: str, *, connack: int, connack5: int, amqp: str, coap: str | None = None
) -> Tells:
    """Who is refused where the protocol has connections, and the request itself where it has none."""
    code = f"{status // 100}.{status % 100:02d} {text}"
    return Tells(
        http=f"{status} {text}",
        mqtt=f"connack {connack}",
        mqtt5=f"connack 0x{connack5:02x}",
        watching=f"connack {connack}",
        watching5=f"connack 0x{connack5:02x}",
        amqp=amqp,
        coap=code if coap is None else coap,
    )


def everywhere(text: str, *faces: str, base: Tells = ACCEPTED) -> Tells:
    """The same words on some faces."""
    return replace(base, **dict.fromkeys(faces, text))


NOT_LOGGED_IN = refused(401, ANY, connack=4, connack5=0x86, amqp="sasl failed", coap="no handshake")
NO_CONSUMER = failed(503, "no consumer available")
NOT_PROCESSED = failed(503, "consumer didn't process the message")
NO_DEVICE = "device is disabled or not registered"
NO_TENANT = "tenant is disabled or not registered"
NO_GATEWAY = "gateway is disabled or not registered"
TOO_MUCH = "tenant's accumulated message data volume exceeds configured maximum value"
TOO_LONG = "tenant's accumulated device connection time exceeds configured maximum"
UNAUTHORIZED = "closed amqp:unauthorized-access"


# --- rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the contract.

    Shape:  `tenant` and `devices` change the registry; `{t}` in `path` is the tenant; `seen` are the fields
            in which the message that applications get differs from the usual, None where they get none;
            `status` is what counts, None where no message is counted; `attempts` the outcome that counts
            where a connection is refused. `only` names the faces that the row is about.
    """

    says: str
    endpoint: str = "telemetry"
    path: str = ""
    who: Who = Who.DEVICE
    qos: int = 1
    payload: bytes = b'{"t": 5}'
    content_type: str | None = JSON
    ttl: int | None = None
    ttd: int | None = None
    on_error: str | None = None
    tenant: Mapping[str, Any] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    no_credentials: bool = False
    used_bytes: int = 0
    used_seconds: int = 0
    service: str = "usual"
    consumer: Consumer = Consumer.ACCEPTS
    tells: Tells = ACCEPTED
    seen: Mapping[str, Any] | None = None
    status: str | None = "forwarded"
    ttd_label: str = "none"
    size: int | None = None
    attempts: str | None = None
    only: tuple[str, ...] = ()

    def attempt(self, tenant: str) -> Attempt:
        """What the device tries."""
        login = None
        if self.who is not Who.STRANGER:
            auth_id, password = self.who.value
            is_whole = "@" in auth_id or self.who is Who.WITHOUT_TENANT
            login = (auth_id if is_whole else f"{auth_id}@{tenant}", password.strip())
        return Attempt(
            endpoint=self.endpoint,
            path=self.path.format(t=tenant),
            login=login,
            qos=self.qos,
            payload=self.payload,
            content_type=self.content_type,
            ttl=self.ttl,
            ttd=self.ttd,
            on_error=self.on_error,
        )


# --- what rows have in common ----------------------------------------------------------------------

AN_EVENT: dict[str, Any] = {"endpoint": "event"}
BEHIND: dict[str, Any] = {"who": Who.GATEWAY, "path": "/{t}/4712"}
OF_4712: dict[str, Any] = {"device": "4712"}
LASTING = ("mqtt3", "mqtt5", "mqtt3-watching", "mqtt5-watching", "amqp")
REQUESTS = ("http", "coap")
UNCOUNTED: dict[str, Any] = {"status": None}
BAD: dict[str, Any] = {"status": "unprocessable"}
