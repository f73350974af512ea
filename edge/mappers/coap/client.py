"""aiocoap, and nothing else here: requests and observations, failures as ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiocoap
from aiocoap import error as coap_error
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import Type

from edge.mappers.coap.places import MAX_PAYLOAD, Access
from edge.mappers.coap.requests import Answer, AnsweredBadly
from edge.mappers.driver import DeviceUnreachable
from gateway.errors import InvalidSetting

logging.getLogger("coap").setLevel(logging.CRITICAL)  # what fails is told by whoever asked

_CODES = {"GET": Code.GET, "PUT": Code.PUT, "POST": Code.POST}


class TooLong(coap_error.ObservationCancelled):  # type: ignore[misc]
    """An answer in blocks that comes to no end; it ends an observation, too."""

    def __str__(self) -> str:
        return f"a payload of at most {MAX_PAYLOAD} bytes is taken, more came"


def cap_answers(message: Any) -> None:
    """Have the library give up on answers that are too long, of observations, too: it knows no limit.

    Errors: InvalidSetting where this cannot be done: a device could fill all memory then.
    """
    append = getattr(message, "_append_response_block", None)
    if append is None:
        raise InvalidSetting(
            "this aiocoap cannot be kept from taking answers of any length: "
            "pip install 'twinspan[coap]' installs one that can"
        )
    if append.__name__ == "append_capped":  # of another client
        return

    def append_capped(message: Any, block: Any) -> None:
        if len(message.payload) + len(block.payload) > MAX_PAYLOAD:
            raise TooLong
        append(message, block)

    message._append_response_block = append_capped


class AiocoapClient:
    """Asks and commands; one socket for all devices. Errors: of `cap_answers`."""

    def __init__(self) -> None:
        cap_answers(aiocoap.Message)
        self._context: Any = None

    async def open(self) -> None:
        """Have a socket; where the machine has no IPv6, one for each device."""
        try:
            self._context = await aiocoap.Context.create_client_context(transports=["udp6"])
        except OSError:
            self._context = await aiocoap.Context.create_client_context(transports=["simple6"])

    async def ask(
        self,
        access: Access,
        method: str,
        url: str,
        payload: bytes = b"",
        form: int | None = None,
    ) -> Answer:
        async with _told(url):
            request = self._send(_message(access, method, url, payload, form))
            async with asyncio.timeout(access.seconds):
                return _checked(await request.response)

    @asynccontextmanager
    async def observe(self, access: Access, url: str) -> AsyncIterator[AsyncIterator[Answer]]:
        """Register for a resource; what comes are its states, the first at once.

        The iterator ends where the device does not know the observation (any more).
        """
        message = _message(access, "GET", url, b"", None)
        message.opt.observe = 0
        request = self._send(message)
        try:
            yield self._states(request, access, url)
        finally:
            if request.observation is not None and not request.observation.cancelled:
                request.observation.cancel()

    async def _states(self, request: Any, access: Access, url: str) -> AsyncIterator[Answer]:
        async with _told(url):
            async with asyncio.timeout(access.seconds):
                first = await request.response
            yield _checked(first)
            if first.opt.observe is None:
                return
            try:
                async for state in request.observation:
                    yield _checked(state)
            except TooLong:
                raise
            except (coap_error.NotObservable, coap_error.ObservationCancelled):
                return

    def _send(self, message: Any) -> Any:
        if self._context is None:
            raise DeviceUnreachable("no socket yet")
        return self._context.request(message)

    async def close(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            await context.shutdown()


def _message(access: Access, method: str, url: str, payload: bytes, form: int | None) -> Any:
    class Tuning(aiocoap.TransportTuning):  # type: ignore[misc]
        ACK_TIMEOUT = access.ack_seconds
        MAX_RETRANSMIT = access.retransmits

    message: Any = aiocoap.Message(
        code=_CODES[method],
        uri=url,
        payload=payload,
        _mtype=Type.CON if access.is_confirmable else Type.NON,
        transport_tuning=Tuning(),
    )
    if form is not None:
        message.opt.content_format = form
    return message


def _checked(message: Any) -> Answer:
    if not message.code.is_successful():
        raise AnsweredBadly(f"{message.code.dotted} {message.code.name_printable}")
    form = message.opt.content_format
    return Answer(bytes(message.payload), None if form is None else int(form))


@asynccontextmanager
async def _told(url: str) -> AsyncIterator[None]:
    """Turn the library's failures into ours."""
    try:
        yield
    except TimeoutError as error:
        raise DeviceUnreachable(f"{url}: no answer in time") from error
    except TooLong as error:
        raise AnsweredBadly(str(error)) from error
    except (coap_error.Error, OSError, ValueError) as error:
        cause = str(error) or type(error).__name__
        raise DeviceUnreachable(f"{url}: {cause[:200]}") from error
