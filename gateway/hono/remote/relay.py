"""The relay: messages of our tenants' devices go to an existing Hono, its commands come to our devices.

It is a `Broker` of the tenants that have a gateway device at the remote, and takes the responses to commands
that came from there. A message is acknowledged when it is on disk; see `gateway.hono.remote.pump` for the
rest of its way. Each tenant has a gateway device, a connection and a share of the disk of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from gateway.errors import ConsumerTimeout, GatewayError, NoConsumer, Rejected
from gateway.hono.remote.dialer import Connection, Dialer, Place
from gateway.hono.remote.meters import RelayMeters
from gateway.hono.remote.pump import Pump
from gateway.hono.remote.replies import is_reply
from gateway.hono.remote.uplink import Hub, Remote, Uplink
from gateway.model.message import EMPTY_NOTIFICATION, Command, CommandResponse, Message
from gateway.model.ports import CommandRouting, Done
from gateway.observe.tracing import Tracer
from gateway.store.relay import RelaySpool

log = logging.getLogger(__name__)

RESPONSE_SECONDS: Final = 5.0
"""How long a device's answer waits for the remote's outcome."""
MAX_RESPONSES: Final = 10_000
"""Answers under way; more are refused."""
_ROUTER_TTD: Final = (-1, 0)


class GatewayRelay:
    """Module: one tenant's gateway device at the remote; the port `Hub` of its connections."""

    def __init__(
        self,
        remote: Remote,
        spool: RelaySpool,
        commands: CommandRouting,
        meters: RelayMeters,
        tracer: Tracer,
        *,
        window: int,
        answer_timeout: float,
        ready_without_remote: bool,
    ) -> None:
        self.name = f"hono.remote.{remote.tenant}"
        self.remote = remote
        self._spool = spool
        self._commands = commands
        self._meters = meters
        self._pump = Pump(spool, meters, tracer, window=window, answer_timeout=answer_timeout)
        self._is_ready_without = ready_without_remote
        self._dialer: Dialer
        self._link: Uplink | None = None
        self._answers: set[_Answer] = set()
        self.submit = self._pump.submit
        meters.watch(spool)

    def dial(self, place: Place, make: Callable[[Hub], Connection]) -> None:
        """Say where the remote is, and how a connection to it is made; once, before `run`."""
        self._dialer = Dialer(place, partial(make, self), self._meters, self.remote.tenant)
        self._pump.on_accepted = self._dialer.works

    async def run(self, ready: Callable[[], None]) -> None:
        await self._pump.load()
        self._meters.connected(False)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump.run())
            group.create_task(self._dialer.run())
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                await self._pump.wind_up()
                self._dialer.say_goodbye()

    # --- how it is -----------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    @property
    def is_well(self) -> bool:
        """What `/readiness` says of it."""
        return self._is_ready_without or self.is_connected

    def facts(self) -> Mapping[str, str | int | bool]:
        """Return what an operator wants to know."""
        found: dict[str, str | int | bool] = {
            "remote": self.remote.address,
            "username": self.remote.username,
            "connected": self.is_connected,
            "under-way": self._pump.under_way,
        }
        for kind, depth in self._spool.depths.items():
            found[f"{kind.value}-waiting"] = depth.messages
            found[f"{kind.value}-waiting-bytes"] = depth.bytes
        if not self.is_connected and self._dialer.cause:
            found["cause"] = self._dialer.cause
        if self._pump.last_refusal is not None:
            found["last-refusal"] = self._pump.last_refusal.text
        return found

    # --- the port Hub --------------------------------------------------------------------------------

    def up(self, link: Uplink) -> None:
        self._link = link
        self._meters.connected(True)
        log.info(
            "connected to the remote",
            extra={"tenant": self.remote.tenant, "remote": self.remote.address},
        )
        self._dialer.entered()
        self._pump.up(link)

    def has_room(self) -> None:
        self._pump.has_room()

    def down(self, link: Uplink, *, by_peer: bool) -> None:
        self._dialer.ended()
        if self._link is not link:
            return
        self._link = None
        self._meters.connected(False)
        for answer in list(self._answers):
            answer.end(NoConsumer())
        self._pump.down(by_peer=by_peer)

    def command(self, command: Command, done: Done) -> None:
        self._commands.route(command, partial(self._commanded, done))

    def _commanded(self, done: Done, error: GatewayError | None) -> None:
        outcome = "accepted" if error is None else "released"
        self._meters.command("rejected" if isinstance(error, Rejected) else outcome)
        done(error)

    # --- responses -----------------------------------------------------------------------------------

    def respond(self, response: CommandResponse, done: Done) -> None:
        """Send a device's answer to the remote.

        Errors (through `done`): NoConsumer while nothing is taken; ConsumerTimeout; Rejected.
        """
        if self._link is None or len(self._answers) >= MAX_RESPONSES:
            self._meters.command("response_refused")
            done(NoConsumer())
            return
        answer = _Answer(self._answers, partial(self._responded, done))
        self._link.respond(response, answer.end)

    def _responded(self, done: Done, error: GatewayError | None) -> None:
        self._meters.command("response_refused" if error else "response_accepted")
        done(error)


class _Answer:
    """A device's answer on its way; ends once."""

    __slots__ = ("_all", "_done", "_timer")

    def __init__(self, all_: set[_Answer], done: Done) -> None:
        self._all = all_
        self._done: Done | None = done
        self._timer = asyncio.get_running_loop().call_later(
            RESPONSE_SECONDS, self.end, ConsumerTimeout()
        )
        all_.add(self)

    def end(self, error: GatewayError | None) -> None:
        """Tell the outcome; what comes later is too late."""
        done, self._done = self._done, None
        if done is not None:
            self._timer.cancel()
            self._all.discard(self)
            done(error)


class Relay:
    """The ports `Broker` and `ResponseSink` of all tenants that are relayed."""

    def __init__(self, gateways: Mapping[str, GatewayRelay]) -> None:
        self._gateways = gateways

    def carries(self, tenant: str) -> bool:
        """True for tenants with a gateway device at the remote."""
        return tenant in self._gateways

    def find(self, tenant: str, done: Callable[[bool], None]) -> None:
        done(self.carries(tenant))

    def send(self, message: Message, done: Done) -> None:
        """Take a message.

        Errors (through `done`): see `Pump.submit`.
        """
        if is_announcement(message):
            done(None)
        else:
            self._gateways[message.tenant].submit(message, done)

    def owns(self, tenant: str, reply_id: str) -> bool:
        return is_reply(reply_id) and tenant in self._gateways

    def take(self, response: CommandResponse, done: Done) -> None:
        """Send a device's answer; see `GatewayRelay.respond`."""
        self._gateways[response.tenant].respond(response, done)


def is_announcement(message: Message) -> bool:
    """True for our router's word that a device listens: at the remote it is the gateway that does."""
    return (
        message.content_type == EMPTY_NOTIFICATION
        and message.ttd in _ROUTER_TTD
        and not message.address
    )
