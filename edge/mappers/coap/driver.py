"""A CoAP server as a Device: asked, or observed where a property says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from edge.mappers.coap.places import Access, Place, command, reading
from edge.mappers.coap.requests import Answer, AnsweredBadly, Client
from edge.mappers.driver import Clock, DeviceUnreachable, Reading
from edge.mappers.readings import OWN_RULE, Latest, bad, wanted_value
from gateway.errors import GatewayError, Rejected
from gateway.wire.cloudedge.values import ValueRule


class CoapDriver:
    """Asks resource by resource; each observation has a task of this driver's own."""

    def __init__(
        self,
        access: Access,
        places: Mapping[str, Place],
        rules: Mapping[str, ValueRule],
        faults: Mapping[str, str],
        client: Client,
        clock: Clock,
        latest: Latest,
    ) -> None:
        self._access = access
        self._places = places
        self._rules = rules
        self._faults = faults
        self._client = client
        self._clock = clock
        self._latest = latest
        self._changed: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._lost = ""

    async def connect(self) -> None:
        first = next(iter(self._places.values()), None)
        if first is not None:
            answer = await self._ask(first.url)
            if isinstance(answer, DeviceUnreachable):
                raise answer
        observed = {place.url for place in self._places.values() if place.is_observed}
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._observe(url)) for url in sorted(observed)]

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        if self._lost:
            raise DeviceUnreachable(self._lost)
        wanted = [self._places[name] for name in names if name in self._places]
        readings = self._latest.read([place.name for place in wanted if place.is_observed])
        answers: dict[str, Answer | GatewayError] = {}
        for place in wanted:
            if place.is_observed:
                continue
            if place.url not in answers:
                answers[place.url] = await self._ask(place.url)
            readings[place.name] = self._reading(place, answers[place.url])
        for answer in answers.values():
            if isinstance(answer, DeviceUnreachable):
                raise answer
        return readings

    async def _ask(self, url: str) -> Answer | GatewayError:
        try:
            return await self._client.ask(self._access, "GET", url)
        except GatewayError as error:
            return error

    def _reading(self, place: Place, answer: Answer | GatewayError) -> Reading:
        now = self._clock()
        if isinstance(answer, GatewayError):
            return bad(answer.message, now)
        rule = self._rules.get(place.name, OWN_RULE)
        return reading(place, rule, answer.form, answer.payload, now)

    # --- observations -------------------------------------------------------------------------------

    async def _observe(self, url: str) -> None:
        """Register, and again after each refresh: a device that was restarted has forgotten us."""
        while not self._lost:
            try:
                async with self._client.observe(self._access, url) as states:
                    await self._take_all(url, states)
            except AnsweredBadly as error:
                self._take(url, error)
                await asyncio.sleep(self._access.refresh)
            except DeviceUnreachable as error:
                self._lost = error.message
                self._tell()

    async def _take_all(self, url: str, states: AsyncIterator[Answer]) -> None:
        """Take states until the refresh; where no more come before it, wait for it."""
        try:
            async with asyncio.timeout(self._access.refresh):
                async for state in states:
                    self._take(url, state)
                await asyncio.sleep(self._access.refresh)
        except TimeoutError:
            return

    def _take(self, url: str, state: Answer | GatewayError) -> None:
        for place in self._places.values():
            if place.is_observed and place.url == url:
                self._latest.take(place.name, self._reading(place, state))

    def _tell(self) -> None:
        for changed in self._changed:
            changed()

    # --- the rest -----------------------------------------------------------------------------------

    async def write(self, name: str, text: str) -> None:
        place = self._places.get(name)
        if place is None:
            raise Rejected(self._faults.get(name, f"{name} has no resource"))
        value = wanted_value(self._rules.get(name, OWN_RULE), text)
        payload = command(place, text, value)
        await self._client.ask(
            self._access, place.command_method, place.command_url, payload, place.command_format
        )

    def faults(self) -> Mapping[str, str]:
        return self._faults

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)
        self._latest.subscribe(changed)

    async def close(self) -> None:
        self._changed.clear()
        self._latest.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
