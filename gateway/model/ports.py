"""The ports between rooms: who hands what to whom, and who answers when.

Rooms on one floor do not import each other; they meet in these Protocols. Outcomes on device-side paths are
callbacks, not awaits: `done(None)` says accepted, `done(error)` says why not, each exactly once, always
from the event loop's thread, possibly before the call that was given it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from gateway.errors import GatewayError
from gateway.model.login import Login
from gateway.model.message import (
    Adapter,
    Command,
    CommandResponse,
    DeviceCommand,
    Message,
    Principal,
    Upload,
)
from gateway.model.thing import (
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)

Done: TypeAlias = Callable[[GatewayError | None], None]


class Ingress(Protocol):
    """The one door for uploads, whatever the protocol (Hono's rules common to all adapters)."""

    def submit(self, upload: Upload, done: Done) -> None:
        """Check the upload and send it downstream; `done` tells the device's outcome."""


class Downstream(Protocol):
    """Where checked messages go: competing consumers and taps, outcomes merged (decision record 0003)."""

    def send(self, message: Message, done: Done) -> None:
        """Hand on a message.

        Errors (through `done`): NoConsumer, ConsumerTimeout, NotProcessed, StoreUnavailable, Rejected.
        """


class Tap(Protocol):
    """Sees every message of the tenants it is open for, beside the consumers (connection sources)."""

    def is_open(self, message: Message) -> bool:
        """True when this tap wants `message`."""

    def take(self, message: Message, done: Done) -> None:
        """Work on a message; `done` once its effect is durable or finally refused."""


class DeviceLink(Protocol):
    """A device or gateway that listens for commands on some connection."""

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Send a command to the peer.

        Errors (through `done`): Undeliverable (released to the application), Rejected (its text goes to
        the application); a device's `modified` is NotProcessed.
        """


class CommandRouting(Protocol):
    """Which link a device's commands go to (Hono's command router)."""

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: DeviceLink,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Callable[[], None]:
        """Register `link` for a device (or, as a gateway, for all its devices); returns the way to end it.

        `gateway` names the gateway that subscribes on behalf of `device`. `announce` sends Hono's TTD event
        (-1 now, 0 at the end). `for_its_devices` False keeps a gateway's link to commands for itself. A later
        subscription for the same device wins.
        """

    def route(self, command: Command, done: Done) -> None:
        """Deliver a command to the one link that applies; NoConsumer when none does."""

    def respond(self, response: CommandResponse, done: Done) -> None:
        """Hand a device's response to the one who waits at its reply address."""


class ResponseSink(Protocol):
    """Takes command responses for reply addresses that it owns (AMQP receivers, connections)."""

    def owns(self, tenant: str, reply_id: str) -> bool: ...

    def take(self, response: CommandResponse, done: Done) -> None: ...


class Authenticator(Protocol):
    """Proves who a device is. Answers may come at once (cache) or after hashing off the loop."""

    def check_password(
        self,
        username: str,
        password: bytes,
        adapter: Adapter,
        done: Callable[[Principal | GatewayError], None],
    ) -> None:
        """Check `{auth-id}@{tenant}` and password; Unauthenticated when wrong, StoreUnavailable when busy."""

    def check_login(
        self, login: Login, adapter: Adapter, done: Callable[[Principal | GatewayError], None]
    ) -> None:
        """Check what else a peer brought, e.g. a certificate or a token; answers as `check_password`."""


class Things(Protocol):
    """The things service as others use it: our own, or an existing Ditto far away."""

    def submit(
        self, command: ThingCommand, done: Callable[[ThingResult | GatewayError], None]
    ) -> None:
        """Run a command; `done` after it is durable."""

    async def execute(self, command: ThingCommand) -> ThingResult:
        """Run a command and wait; raises what `submit` would answer."""


class SignalListener(Protocol):
    """Gets twin events and live messages in order, synchronously; must not block and never raises."""

    def on_event(self, event: ThingEvent) -> None: ...

    def on_message(self, message: ThingMessage) -> None: ...


class Signals(Protocol):
    """Fan-out of what happens to things, before any policy: listeners ask `can_read` for their subjects."""

    def listen(self, listener: SignalListener) -> Callable[[], None]:
        """Add a listener; returns the way to end it."""

    def send(
        self,
        message: ThingMessage,
        done: Callable[[ThingMessageResponse | GatewayError], None],
    ) -> None:
        """Deliver a live message; CommandTimeout when an answer is due and none came."""

    def respond(self, response: ThingMessageResponse) -> bool:
        """Hand an answer to who waits for its correlation id; False when nobody does."""


class EdgeNames(Protocol):
    """Decides in the cloud which tenant and device an edge node may speak for."""

    def tenant_of(self, node: str, device: str) -> str | None:
        """The tenant, or None when this node may not send for this device."""


Properties: TypeAlias = Mapping[str, str | int | float | bool]
