"""The edge's own MQTT broker (EventBus in internal mode): small, in memory, for the clients of one node.

MQTT 3.1.1 and 5.0; QoS 0, 1, 2; retained messages, wills, persistent and shared subscriptions, take-over
of a client id. Every message goes to local subscribers and then to `intercept`; a client's PUBACK or PUBREC
waits for its `done`, so what EventBus wants on disk is on disk before it is acknowledged.

Nothing survives a restart: clients with QoS 1 messages in flight send them again. Bounds: connections, packet
size, messages that wait (per client, and in bytes for all), retained messages, subscriptions; see `EdgeMqtt`
for what happens when they are reached.

Trust: anonymous on loopback; any other address needs a users file and TLS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl as tls
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.brokerclient import BrokerClient, answer_later, filter_code
from edge.brokermessages import Message, Retained, message_of
from edge.brokersession import BrokerSession, Delivery, Grant, grant_of
from edge.brokerusers import Users, read_users
from gateway.config.edge import EdgeMqtt as Settings
from gateway.errors import InvalidSetting, StoreUnavailable
from gateway.model.ports import Done
from gateway.runtime.listener import Endpoints, listen_tcp, parse_bind
from gateway.runtime.mqtt_link import Hold
from gateway.wire.mqtt.filters import FilterTree, TopicFilter
from gateway.wire.mqtt.packets import V5, Connect, Publish, Subscribe, Subscription, Will
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.state import Limits

if TYPE_CHECKING:
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

STRANGERS = 100
"""Sockets beyond `max_connections` that may wait for their CONNECT; more are closed at once."""
TOPIC_ALIASES = 16
FOREVER = 0xFFFF_FFFF

Intercept = Callable[[Publish, Done], None]
Member = BrokerSession
SharedKey = tuple[str, str]


class _Group:
    """The members of one shared subscription; messages go round."""

    def __init__(self) -> None:
        self.members: dict[BrokerSession, Grant] = {}

    def choose(self) -> tuple[BrokerSession, Grant] | None:
        """Return whose turn it is: a connected member, else one that is away."""
        chosen = next((s for s in self.members if s.link is not None), None)
        chosen = chosen or next(iter(self.members), None)
        if chosen is None:
            return None
        grant = self.members.pop(chosen)
        self.members[chosen] = grant
        return chosen, grant


class Broker:
    """The broker, as a module."""

    name = "edge.mqtt"

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        metrics: Metrics,
        intercept: Intercept | None = None,
    ) -> None:
        self.intercept = intercept
        """Sees every message of a client; calls `done` once, before it returns or later."""
        self.limits = Limits(
            max_packet=settings.max_packet,
            receive_maximum=settings.max_in_flight,
            topic_alias_maximum=TOPIC_ALIASES,
            connect_timeout=settings.connect_timeout,
        )
        self._settings = settings
        self._endpoints = endpoints
        self._metrics = metrics
        self._in = metrics.edge_mqtt_messages.labels("in")
        self._out = metrics.edge_mqtt_messages.labels("out")
        self._users: Users | None = None
        self._group: asyncio.TaskGroup | None = None
        self._links: set[BrokerClient] = set()
        self._sessions: dict[str, BrokerSession] = {}
        self._tree: FilterTree[BrokerSession | SharedKey, Grant | _Group] = FilterTree(remember=200)
        self._groups: dict[SharedKey, _Group] = {}
        self._retained = Retained(settings.max_retained, settings.max_retained_bytes)
        self._room = settings.max_queued_bytes
        self._connected = 0

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled.

        Errors: PortTaken; InvalidSetting for a bind beyond loopback without users and TLS.
        """
        context = self._trust()
        try:
            async with asyncio.TaskGroup() as self._group:
                server = await listen_tcp(
                    self._endpoints,
                    "edge.mqtt",
                    self._settings.bind,
                    self._client,
                    setting="edge.mqtt.bind",
                    ssl=context,
                )
                async with server:
                    ready()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        self._stop()
        finally:
            self._group = None

    def _client(self) -> BrokerClient:
        return BrokerClient(self)

    def _trust(self) -> tls.SSLContext | None:
        """Read users and certificate; refuse what would be open to a network."""
        settings = self._settings
        if settings.users_file:
            self._users = Users(read_users(Path(settings.users_file)))
        if not _is_loopback(settings.bind) and not (settings.users_file and settings.tls_cert):
            raise InvalidSetting(
                f"edge.mqtt.bind: {settings.bind} is not loopback: set edge.mqtt.users_file,"
                " edge.mqtt.tls_cert and edge.mqtt.tls_key too"
            )
        if not settings.tls_cert:
            return None
        context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
        except (OSError, tls.SSLError) as error:
            raise InvalidSetting(f"edge.mqtt.tls_cert: {settings.tls_cert}: {error}") from error
        return context

    def _stop(self) -> None:
        for link in tuple(self._links):
            link.said_goodbye = True  # we go, not the client: no will
            link.end(Reason.SERVER_SHUTTING_DOWN)
            link.abort()
        for session in self._sessions.values():
            session.stop_timers()
        if self._users is not None:
            self._users.close()

    # --- for EventBus -----------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NONE,
    ) -> None:
        """Give a message to local subscribers; `intercept` does not see it."""
        self._route(Message(topic, payload, qos, retain, properties), None)

    def retained(self, topic_filter: TopicFilter) -> list[tuple[str, bytes]]:
        """Return topic and payload of what is retained for a filter."""
        now = asyncio.get_running_loop().time()
        return [(m.topic, m.payload) for m in self._retained.matching(topic_filter, now)]

    def has_subscribers(self, topic: str) -> bool:
        """Tell whether anybody would get a message to `topic`."""
        return bool(self._tree.match(topic))

    def filters(self) -> Iterator[str]:
        """Every topic filter that somebody is subscribed to; one may stand several times."""
        for session in self._sessions.values():
            yield from session.grants

    # --- connections ------------------------------------------------------------------------------

    def joined(self, client: BrokerClient) -> None:
        """A socket was accepted."""
        self._links.add(client)
        if len(self._links) > self._settings.max_connections + STRANGERS:
            client.abort()

    def connect(self, client: BrokerClient, packet: Connect) -> None:
        """Decide about a CONNECT: at once where there are no users, else after hashing."""
        if packet.properties.authentication_method is not None:
            client.process(client.session.refuse(Reason.BAD_AUTHENTICATION_METHOD))
        elif self._connected >= self._settings.max_connections:
            client.process(client.session.refuse(Reason.SERVER_BUSY))
        elif self._users is None:
            self._accept(client, packet)
        elif self._group is not None:
            self._group.create_task(self._check(client, packet, self._users))

    async def _check(self, client: BrokerClient, packet: Connect, users: Users) -> None:
        try:
            is_right = await users.check(packet.username, packet.password)
        except StoreUnavailable:
            client.process(client.session.refuse(Reason.SERVER_BUSY))
            return
        if is_right:
            self._accept(client, packet)
        else:
            log.info("mqtt client refused", extra={"client_id": packet.client_id})
            client.process(client.session.refuse(Reason.BAD_USER_NAME_OR_PASSWORD))

    def _accept(self, client: BrokerClient, packet: Connect) -> None:
        if client.session.closed:
            return
        client_id = packet.client_id or f"auto-{id(client):x}"
        session, is_resumed = self._session(client_id, packet)
        session.link = client
        session.will = packet.will
        session.expiry = self._expiry(packet)
        client.kept = session
        self._connected += 1
        self._metrics.edge_mqtt_clients.set(self._connected)
        said = Properties(assigned_client_id=None if packet.client_id else client_id)
        if packet.version == V5 and session.expiry != packet.properties.session_expiry:
            said = msgspec.structs.replace(said, session_expiry=int(session.expiry))
        state = session.state if is_resumed else None
        events = client.session.accept(client.loop.time(), properties=said, state=state)
        session.state = client.session.state
        session.drain()
        client.process(events)
        client.release(Hold.DECISION)

    def _session(self, client_id: str, packet: Connect) -> tuple[BrokerSession, bool]:
        """Return the session for a client id, and whether it is an earlier one that goes on."""
        old = self._sessions.get(client_id)
        if old is not None:
            if old.link is not None:
                old.link.end(Reason.SESSION_TAKEN_OVER)
            if client_id in self._sessions and not packet.clean_start:
                old.stop_timers()
                return old, True
            self._discard(old)
        settings = self._settings
        bounds = (settings.max_queue, settings.max_retained, settings.max_in_flight)
        new = BrokerSession(client_id, self, *bounds)
        self._sessions[client_id] = new
        return new, False

    def _expiry(self, packet: Connect) -> float:
        if packet.version == V5:
            asked = float(packet.properties.session_expiry or 0)
        else:
            asked = 0.0 if packet.clean_start else float(FOREVER)
        return min(asked, self._settings.max_session_expiry)

    def left(self, client: BrokerClient) -> None:
        """A connection has ended: the will goes out, the session waits or goes."""
        self._links.discard(client)
        session = client.kept
        if session is None or session.link is not client:
            return
        session.link = None
        self._connected -= 1
        self._metrics.edge_mqtt_clients.set(self._connected)
        if session.will is not None and not client.said_goodbye:
            self._schedule_will(session, session.will)
        session.will = None
        if session.expiry <= 0:
            self._discard(session)
        else:
            session.expiry = min(session.expiry, self._settings.max_session_expiry)
            self._sessions[session.client_id] = self._sessions.pop(session.client_id)
            session.expiry_timer = client.loop.call_later(session.expiry, self._discard, session)
            self._bound_sessions()

    def _schedule_will(self, session: BrokerSession, will: Will) -> None:
        delay = min(float(will.properties.will_delay or 0), session.expiry)
        if delay <= 0:
            self._publish_will(will)
        else:
            loop = asyncio.get_running_loop()
            session.delayed_will = will
            session.will_timer = loop.call_later(delay, self._publish_delayed_will, session)

    def _publish_delayed_will(self, session: BrokerSession) -> None:
        will, session.delayed_will = session.delayed_will, None
        if will is not None:
            self._publish_will(will)

    def _publish_will(self, will: Will) -> None:
        properties = msgspec.structs.replace(will.properties, will_delay=None)
        packet = Publish(will.topic, will.payload, will.qos, will.retain, properties=properties)
        self._route(message_of(packet, asyncio.get_running_loop().time()), None)
        if self.intercept is not None:
            self.intercept(packet, _ignored)

    def _bound_sessions(self) -> None:
        """Keep no more sessions than clients may connect: the one away for longest goes."""
        if len(self._sessions) <= self._settings.max_connections:
            return
        oldest = next((s for s in self._sessions.values() if s.link is None), None)
        if oldest is not None:
            self._discard(oldest)

    def _discard(self, session: BrokerSession) -> None:
        """Forget a session and its subscriptions; a delayed will is published."""
        will = session.delayed_will
        session.stop_timers()
        if will is not None:
            self._publish_will(will)
        for text in tuple(session.grants):
            self.unsubscribe(session, text)
        session.forget()
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]

    # --- subscriptions ----------------------------------------------------------------------------

    def subscribe(
        self, session: BrokerSession, entry: Subscription, packet: Subscribe
    ) -> tuple[int, bool]:
        """Return the code for SUBACK and whether the subscription is new."""
        topic_filter = filter_code(entry)
        if isinstance(topic_filter, int):
            return topic_filter, False
        is_new = entry.filter not in session.grants
        if is_new and len(session.grants) >= self._settings.max_subscriptions:
            return int(Reason.QUOTA_EXCEEDED), False
        grant = grant_of(entry, topic_filter, packet.properties)
        session.grants[entry.filter] = grant
        if topic_filter.group is None:
            self._tree.add(topic_filter, session, grant)
        else:
            self._shared(topic_filter).members[session] = grant
        return entry.qos, is_new

    def _shared(self, topic_filter: TopicFilter) -> _Group:
        key = (topic_filter.group or "", topic_filter.text)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
            self._tree.add(topic_filter, key, group)
        return group

    def unsubscribe(self, session: BrokerSession, text: str) -> bool:
        """End a subscription; False when there was none."""
        grant = session.grants.pop(text, None)
        if grant is None:
            return False
        if grant.filter.group is None:
            return self._tree.remove(grant.filter, session)
        key = (grant.filter.group, grant.filter.text)
        group = self._groups[key]
        del group.members[session]
        if not group.members:
            del self._groups[key]
            self._tree.remove(grant.filter, key)
        return True

    def send_retained(self, session: BrokerSession, entry: Subscription, is_new: bool) -> None:
        """Send what is retained for a subscription, as it asked."""
        grant = session.grants.get(entry.filter)
        if grant is None or grant.filter.group is not None or entry.retain_handling == 2:
            return
        if entry.retain_handling == 1 and not is_new:
            return
        now = asyncio.get_running_loop().time()
        for message in self._retained.matching(grant.filter, now):
            session.deliver(Delivery(message, min(message.qos, grant.qos), True, grant.ids, 0))

    # --- messages ---------------------------------------------------------------------------------

    def publish_from(self, client: BrokerClient, packet: Publish) -> None:
        """A client has published."""
        self._in.inc()
        self._route(message_of(packet, client.loop.time()), client.kept)
        done = answer_later(client, packet)
        if self.intercept is None:
            done(None)
        else:
            self.intercept(packet, done)

    def _route(self, message: Message, origin: BrokerSession | None) -> None:
        if message.retain and not self._retained.keep(message):
            self.dropped("no room to retain")
        found = self._tree.match(message.topic)
        if not found:
            return
        if len(found) == 1:
            self._deliver_one(message, *found[0], origin)
            return
        merged: dict[BrokerSession, Grant] = {}
        for key, grant in found:
            if isinstance(grant, _Group):
                self._deliver_one(message, key, grant, origin)
            elif isinstance(key, BrokerSession) and not (grant.no_local and key is origin):
                merged[key] = _joined(merged[key], grant) if key in merged else grant
        for session, grant in merged.items():
            _deliver(message, session, grant)

    def _deliver_one(
        self,
        message: Message,
        key: BrokerSession | SharedKey,
        grant: Grant | _Group,
        origin: BrokerSession | None,
    ) -> None:
        if isinstance(grant, _Group):
            chosen = grant.choose()
            if chosen is not None:
                _deliver(message, *chosen)
        elif isinstance(key, BrokerSession) and not (grant.no_local and key is origin):
            _deliver(message, key, grant)

    # --- for sessions -----------------------------------------------------------------------------

    def take_room(self, size: int) -> bool:
        """Reserve bytes of the queues' common budget; False when there are none."""
        if size > self._room:
            return False
        self._room -= size
        return True

    def give_room(self, size: int) -> None:
        self._room += size

    def dropped(self, cause: str) -> None:
        self._metrics.edge_mqtt_dropped.labels(cause).inc()

    def sent(self) -> None:
        self._out.inc()

    def overflow(self, session: BrokerSession) -> None:
        """A session cannot keep a QoS 1 or 2 message: it ends, and its client with it."""
        asyncio.get_running_loop().call_soon(self._end_slow, session)  # not amid a delivery

    def _end_slow(self, session: BrokerSession) -> None:
        log.warning("mqtt client is too slow", extra={"client_id": session.client_id})
        session.expiry = 0.0
        if session.link is not None:
            session.link.end(Reason.QUOTA_EXCEEDED)
        else:
            self._discard(session)


def _deliver(message: Message, session: BrokerSession, grant: Grant) -> None:
    retain = message.retain and grant.retain_as_published
    qos = min(message.qos, grant.qos)
    session.deliver(Delivery(message, qos, retain, grant.ids, message.size))


def _joined(one: Grant, other: Grant) -> Grant:
    """Return what a client gets that a message reaches by several subscriptions: it gets it once."""
    return Grant(
        one.filter,
        max(one.qos, other.qos),
        False,
        one.retain_as_published or other.retain_as_published,
        (*one.ids, *other.ids),
    )


def _ignored(_error: object) -> None:
    """The outcome of a message that nobody waits for."""


def _is_loopback(bind: str) -> bool:
    host, _ = parse_bind(bind, "edge.mqtt.bind")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
