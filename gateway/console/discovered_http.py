"""`discovered`: devices that nodes see and that are nobody's yet; accepting one is a wish in its object."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from gateway.console.fleet import cut, rows, seconds
from gateway.console.guard import Call, answer, missing
from gateway.console.mirrors import DISCOVERED, Mirrors
from gateway.errors import BadRequest, NotFound, Unprocessable
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping, number, text

MAX_ITEMS: Final = 2_000
LOOKS: Final = 30
LOOK_SECONDS: Final = 0.1
_WISHES: Final = {"namespace": 63, "name": 253, "model": 253}


def discovered_row(found: JsonObject) -> JsonObject:
    """A discovered device in short; its object has all of it."""
    meta, status = mapping(found.get("metadata")), mapping(found.get("status"))
    accepted, why = _verdict(found)
    signal = status.get("signal")
    return {
        "name": text(meta.get("name")),
        "node": text(status.get("node")),
        "protocol": cut(text(status.get("protocol")), 128),
        "address": cut(text(status.get("address")), 253),
        "title": cut(text(status.get("name")), 128),
        "model": cut(text(status.get("model")), 128),
        "manufacturer": cut(text(status.get("manufacturer")), 128),
        "signal": signal if isinstance(signal, int) else None,
        "first_seen": seconds(status.get("firstSeen")),
        "last_seen": seconds(status.get("lastSeen")),
        "accepted": accepted or None,
        "message": why,
        "properties": len(rows(status.get("properties"))),
        "object": found,
    }


def _verdict(found: JsonObject) -> tuple[str, str]:
    """The Device that it has become, and why it has not."""
    status = mapping(found.get("status"))
    told = next(
        (each for each in rows(status.get("conditions"), 20) if each.get("type") == "Accepted"), {}
    )
    why = cut(text(told.get("message"))) if told.get("status") == "False" else ""
    return text(status.get("accepted")), why


class DiscoveredRoutes:
    """The handlers; all are for operators."""

    def __init__(self, kube: KubeClient, mirrors: Mirrors) -> None:
        self._kube = kube
        self._mirrors = mirrors

    async def list(self, _call: Call) -> web.StreamResponse:
        await self._mirrors.known()
        known = self._mirrors.discovered.objects
        items = [discovered_row(known[key]) for key in sorted(known)[:MAX_ITEMS]]
        return answer({"items": [*items], "truncated": len(known) > MAX_ITEMS})

    async def accept(self, call: Call) -> web.StreamResponse:
        """Errors: BadRequest; NotFound; Unprocessable with what CloudCore says; what the API says."""
        name, body = call.part("name"), await call.body()
        wish: JsonObject = {}
        for key, most in _WISHES.items():
            value = body.get(key)
            if value is None or value == "":
                continue
            if not isinstance(value, str) or len(value) > most:
                raise BadRequest(f"{key}: expected at most {most} characters")
            wish[key] = value
        try:
            said = await self._say(name, wish)
        except NotFound as error:
            await self._mirrors.known()
            if not self._mirrors.discovered.version:
                raise missing("discovered", "this cluster does not know the kind") from error
            raise
        return await self._outcome(name, _generation(said), wish)

    async def _say(self, name: str, wish: JsonObject) -> JsonObject:
        """Write a wish anew: it is judged once, so an earlier one, perhaps the same, goes first."""
        before = await self._kube.get(*DISCOVERED, None, name)
        if mapping(before.get("spec")).get("accept") is not None:
            await self._kube.patch(*DISCOVERED, None, name, {"spec": {"accept": None}})
        return await self._kube.patch(*DISCOVERED, None, name, {"spec": {"accept": wish}})

    async def _outcome(self, name: str, generation: int, wish: JsonObject) -> web.StreamResponse:
        """Wait a moment for CloudCore's verdict on this wish; 202 where it takes longer."""
        for _ in range(LOOKS):
            found = await self._kube.get(*DISCOVERED, None, name)
            accepted, why = _verdict(found)
            if accepted and _judged(found) >= generation:
                namespace, _, device = accepted.partition("/")
                return answer({"namespace": namespace, "name": device}, 201)
            if why and _judged(found) >= generation:
                raise Unprocessable(why, code="console:discovered.refused")
            await asyncio.sleep(LOOK_SECONDS)
        return answer({**wish, "pending": True}, 202)


def _generation(found: JsonObject) -> int:
    return number(mapping(found.get("metadata")).get("generation"))


def _judged(found: JsonObject) -> int:
    """Return the generation that the verdict speaks of; what was accepted before is no answer to a wish."""
    told = rows(mapping(found.get("status")).get("conditions"), 20)
    return max(
        (number(each.get("observedGeneration")) for each in told if each.get("type") == "Accepted"),
        default=0,
    )
