"""Devices over HTTP: asked by us, or heard through the webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from edge.mappers.driver import Clock, DeviceUnreachable, Reading
from edge.mappers.http.exchange import Exchange
from edge.mappers.http.places import Document, Place, Request, command
from edge.mappers.http.webhook import Hook, Webhook
from edge.mappers.readings import OWN_RULE, Latest, bad, wanted_value
from gateway.errors import GatewayError, Rejected
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.values import ValueRule

AT_ONCE = 4
"""Requests of one Device that are under way together."""


class _Commands:
    """The part that polled and heard devices have in common: properties, and how they are written."""

    def __init__(
        self,
        places: Mapping[str, Place],
        rules: Mapping[str, ValueRule],
        faults: Mapping[str, str],
        exchange: Exchange,
    ) -> None:
        self._places = places
        self._rules = rules
        self._faults = faults
        self._exchange = exchange

    async def write(self, name: str, text: str) -> None:
        place = self._places.get(name)
        if place is None or not place.command_url:
            raise Rejected(self._faults.get(name, f"{name} has no commandUrl"))
        value = wanted_value(self._rules.get(name, OWN_RULE), text)
        method, url, body = command(place, text, value)
        await self._exchange.command(method, url, body, place.command_type)

    def faults(self) -> Mapping[str, str]:
        return self._faults


class PolledDriver(_Commands):
    """A device that is an HTTP server."""

    def __init__(
        self,
        places: Mapping[str, Place],
        rules: Mapping[str, ValueRule],
        faults: Mapping[str, str],
        exchange: Exchange,
        clock: Clock,
    ) -> None:
        super().__init__(places, rules, faults, exchange)
        self._clock = clock
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def connect(self) -> None:
        await self._exchange.open()
        first = next((p for p in self._places.values() if p.request is not None), None)
        if first is not None:
            await self.read([first.name])

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        asked: dict[Request, list[Place]] = {}
        for name in names:
            place = self._places.get(name)
            if place is not None and place.request is not None:
                asked.setdefault(place.request, []).append(place)
        answers = await asyncio.gather(*(self._ask(request) for request in asked))
        if asked and all(isinstance(answer, DeviceUnreachable) for answer in answers):
            raise next(answer for answer in answers if isinstance(answer, DeviceUnreachable))
        readings: dict[str, Reading] = {}
        for places, answer in zip(asked.values(), answers, strict=True):
            for place in places:
                readings[place.name] = self._reading(place, answer)
        return readings

    async def _ask(self, request: Request) -> Document | GatewayError:
        async with self._gate:
            try:
                return await self._exchange.ask(request)
            except GatewayError as error:
                return error

    def _reading(self, place: Place, answer: Document | GatewayError) -> Reading:
        now = self._clock()
        if isinstance(answer, GatewayError):
            return bad(answer.message, now)
        reading = answer.reading(place, self._rules.get(place.name, OWN_RULE), now)
        return reading or bad("the answer does not have it", now)

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Such a device never speaks unasked."""

    async def close(self) -> None:
        """There is no connection to give back."""


class HeardDriver(_Commands):
    """A device that posts to the webhook."""

    def __init__(
        self,
        view: DeviceView,
        token: str,
        places: Mapping[str, Place],
        rules: Mapping[str, ValueRule],
        faults: Mapping[str, str],
        exchange: Exchange,
        clock: Clock,
        latest: Latest,
        webhook: Webhook,
    ) -> None:
        super().__init__(places, rules, faults, exchange)
        self._name = f"{view.meta.namespace}/{view.meta.name}"
        self._token = token
        self._clock = clock
        self._latest = latest
        self._webhook = webhook

    async def connect(self) -> None:
        await self._exchange.open()
        self._webhook.add(self._name, Hook(self._token, self._take))

    def _take(self, body: bytes) -> bool:
        document = Document.read(body)
        now = self._clock()
        if not isinstance(document.value, dict | list | int | float | str):
            return False
        for name, place in self._places.items():
            reading = document.reading(place, self._rules.get(name, OWN_RULE), now)
            if reading is not None:
                self._latest.take(name, reading)
        return True

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        return self._latest.read(names)

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._latest.subscribe(changed)

    async def close(self) -> None:
        self._latest.close()
        self._webhook.remove(self._name)
