"""Commands to devices behind LoRaWAN network servers: posted to where the server's gateway device says.

A gateway with a `command-endpoint` takes commands for its devices from its first uplink on, until it or its
tenant is deleted or disabled. Its server is told in the form of the kind that posted last. What the server
does not take, or not in time, is released; a device has no way to answer a command. Commands for one device
go out in order.
Full: more than `MAX_WAITING` commands on their way are refused as undeliverable.
Source: Hono, LoRaWAN adapter, Command & Control.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from gateway.config.hono import LoraAdapter as Settings
from gateway.errors import AdapterDisabled, GatewayError, Undeliverable
from gateway.hono.adapters.lora_provider import JSON, Provider, port_of
from gateway.hono.registry_view import RegistryView
from gateway.model.json import JsonObject
from gateway.model.message import Adapter, DeviceCommand, Principal
from gateway.model.ports import CommandRouting, Done
from gateway.model.registry import Assertion, RegistryChange
from gateway.runtime.lanes import Lanes

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

log = logging.getLogger(__name__)

MAX_WAITING = 1_000
MAX_WAITING_OF_DEVICE = 100
CONNECTIONS = 64
MAX_ANSWER = 4_096
ENDPOINT = "command-endpoint"
_OURS = frozenset(("content-length", "transfer-encoding", "connection"))
"""Headers that the request itself makes."""

Key = tuple[str, str]
"""(tenant, gateway)."""


@dataclass(slots=True, eq=False)
class _Link:
    """A gateway's network server as the link that carries commands."""

    downlinks: Downlinks
    key: Key
    provider: Provider
    end: Callable[[], None]

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Post a command; accepted once the server has taken it.

        Errors: Undeliverable.
        """
        self.downlinks.put(self, command, done)


@dataclass(frozen=True, slots=True)
class Post:
    """One command as its network server gets it."""

    url: URL
    headers: Mapping[str, str]
    body: bytes


class Downlinks:
    """The gateways that take commands; used within `running`."""

    def __init__(
        self, settings: Settings, registry: RegistryView, commands: CommandRouting
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._commands = commands
        self._hosts = frozenset(host.lower() for host in settings.command_hosts)
        self._links: dict[Key, _Link] = {}
        self._lanes: Lanes | None = None
        self._waiting = 0
        self._client: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take commands for the length of the block."""
        try:
            async with asyncio.TaskGroup() as group:
                self._lanes = Lanes(group, limit=MAX_WAITING_OF_DEVICE)
                stop = self._registry.on_change(self._changed)
                try:
                    yield
                finally:
                    stop()
                    self._lanes = None
                    for key in tuple(self._links):
                        self._forget(key)
        finally:
            if self._client is not None:
                await self._client.close()
                self._client = None

    # --- who takes commands ---------------------------------------------------------------------------

    def expect(self, gateway: Principal, provider: Provider) -> None:
        """Note that a network server has posted an uplink: its devices may be reached through it."""
        key = gateway.tenant, gateway.device
        link = self._links.get(key)
        if link is not None:
            link.provider = provider
            return
        self._registry.assert_device(*key, None, partial(self._asserted, key, provider))

    def _asserted(self, key: Key, provider: Provider, found: Assertion | GatewayError) -> None:
        if isinstance(found, GatewayError) or self._lanes is None or key in self._links:
            return
        if ENDPOINT not in found.device.document or not found.tenant.adapter(Adapter.LORA).enabled:
            return
        link = _Link(self, key, provider, lambda: None)
        link.end = self._commands.subscribe(*key, link, adapter=Adapter.LORA, announce=False)
        self._links[key] = link

    def _changed(self, change: RegistryChange) -> None:
        if not change.ends_connections:
            return
        for key in tuple(self._links):
            if key[0] == change.tenant_id and change.device_id in (None, key[1]):
                self._forget(key)

    def _forget(self, key: Key) -> None:
        self._links.pop(key).end()

    # --- commands -------------------------------------------------------------------------------------

    def put(self, link: _Link, command: DeviceCommand, done: Done) -> None:
        """Queue a command behind those for the same device.

        Errors: Undeliverable.
        """
        if command.gateway is None:
            raise Undeliverable("a network server takes commands for its devices, none for itself")
        if self._lanes is None or self._waiting >= MAX_WAITING:
            raise Undeliverable("too many commands wait for network servers")
        self._lanes.put((*link.key, command.target), partial(self._send, link, command, done))
        self._waiting += 1

    async def _send(self, link: _Link, command: DeviceCommand, done: Done) -> None:
        error: GatewayError | None = Undeliverable("the command was not posted")
        try:
            error = await self._outcome(link, command)
        except Exception:  # top of a task: the adapter goes on
            log.exception("command not posted", extra={"gateway": link.key})
        finally:
            self._waiting -= 1
            done(error)

    async def _outcome(self, link: _Link, command: DeviceCommand) -> GatewayError | None:
        """Post a command; None once it was taken."""
        import aiohttp

        try:
            async with asyncio.timeout(self._settings.command_timeout):
                endpoint = await self._endpoint(*link.key)
                post = make_post(link.provider, endpoint, command)
                self._check_host(post.url)
                status = await self._post(post)
        except GatewayError as error:
            return error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            cause = str(error) or type(error).__name__
            log.info("network server not reached", extra={"gateway": link.key, "cause": cause})
            return Undeliverable("the network server was not reached")
        if 200 <= status < 300:
            return None
        return Undeliverable(f"the network server answered {status}")

    async def _endpoint(self, tenant: str, gateway: str) -> JsonObject:
        """Return the gateway's command endpoint as it is now.

        Errors: Undeliverable; what the registry says about the gateway.
        """
        found: asyncio.Future[Assertion | GatewayError] = asyncio.get_running_loop().create_future()
        self._registry.assert_device(
            tenant, gateway, None, lambda said: None if found.done() else found.set_result(said)
        )
        asserted = await found
        if isinstance(asserted, GatewayError):
            raise Undeliverable(asserted.message)
        if not asserted.tenant.adapter(Adapter.LORA).enabled:
            raise Undeliverable(AdapterDisabled.default_message)
        endpoint = asserted.device.document.get(ENDPOINT)
        if not isinstance(endpoint, dict):
            raise Undeliverable("gateway has no command endpoint defined")
        return endpoint

    def _check_host(self, url: URL) -> None:
        if self._hosts and (url.host or "").lower() not in self._hosts:
            raise Undeliverable("the host of the gateway's command endpoint is not allowed")

    async def _post(self, post: Post) -> int:
        async with self._session().post(
            post.url, data=post.body, headers=post.headers, allow_redirects=False
        ) as response:
            await response.content.read(MAX_ANSWER)
            return response.status

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp  # only gateways that send commands pay for it

        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=True,
            )
        return self._client


def make_post(provider: Provider, endpoint: JsonObject, command: DeviceCommand) -> Post:
    """Put a command into the form of a network server.

    Shape:  `endpoint` has `uri` with `{{deviceId}}`, and perhaps `headers` and `payload-properties`, whose
            members are added to the body.
    Errors: Undeliverable for an endpoint that cannot be used.
    """
    inner = command.command
    body = provider.body(command.target, inner.payload, port_of(inner.name))
    more = endpoint.get("payload-properties")
    if isinstance(more, dict):
        body = {**body, **more}
    return Post(
        _url(str(endpoint.get("uri")), command.target),
        _headers(provider, endpoint),
        msgspec.json.encode(body),
    )


def _url(uri: str, device: str) -> URL:
    from yarl import URL

    try:
        url = URL(uri.replace("{{deviceId}}", device))
    except ValueError as error:
        raise Undeliverable("gateway has command endpoint with invalid uri") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise Undeliverable("gateway has command endpoint with invalid uri")
    return url


def _headers(provider: Provider, endpoint: JsonObject) -> Mapping[str, str]:
    """The endpoint's headers, below those that a kind of server always needs."""
    given = endpoint.get("headers")
    headers = {"content-type": JSON}
    for name, value in given.items() if isinstance(given, dict) else ():
        if name.lower() not in _OURS and isinstance(value, str | int | float):
            headers[name.lower()] = str(value)
    if provider.accept:
        headers |= {"content-type": JSON, "accept": provider.accept}
    return headers
