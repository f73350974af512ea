"""What an HTTP server answers to bytes that never become a request: in its own words instead of aiohttp's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

from aiohttp import http_exceptions, web

log = logging.getLogger(__name__)

_METHOD_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-_")
_TARGETS = (b"/", b"http:", b"https:")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a request could not be taken.

    Shape:  `status` is HTTP's: 400, 405 for a method that does not exist, 414, 431, or 500 for a bug.
    """

    status: int
    reason: str


Answer: TypeAlias = Callable[[Unreadable], web.Response]


class AnsweringProtocol(web.RequestHandler):
    """A connection that answers broken requests with `answer`, and closes."""

    __slots__ = ("_answer",)

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        answer: Answer,
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._answer = answer

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp; a response that has begun cannot be taken back."""
        if request.writer.output_size > 0:
            raise ConnectionError("a response is under way already")
        found = _judged(status, exc, message or "")
        if found.status >= 500:
            log.error("a request could not be answered", exc_info=exc)
        else:
            log.info("not an HTTP request", extra={"cause": type(exc).__name__})
        response = self._answer(found)
        response.force_close()
        return response


def _judged(status: int, exc: BaseException | None, message: str) -> Unreadable:
    if isinstance(exc, http_exceptions.LineTooLong):
        return _too_long(exc)
    if isinstance(exc, http_exceptions.BadHttpMethod) and _is_method(message):
        return Unreadable(405, "The HTTP method does not exist.")
    if status >= 500:
        return Unreadable(status, HTTPStatus(status).phrase)
    if message.startswith("Too many headers"):
        return Unreadable(431, "The request has too many headers.")
    if isinstance(exc, http_exceptions.InvalidURLError):
        return Unreadable(400, "The request target is no URI.")
    what = message.partition(":")[0].rstrip(".")[:200]
    return Unreadable(400, f"The request could not be read: {what}.")


def _too_long(exc: http_exceptions.LineTooLong) -> Unreadable:
    """The parser says what it read, not where: a target begins as targets do."""
    line = exc.args[0]
    begin = bytes(line[:8]) if isinstance(line, bytes | bytearray) else str(line)[:8].encode()
    if begin.startswith(_TARGETS):
        return Unreadable(414, "The request target is too long.")
    return Unreadable(431, "A header of the request is too long.")


def _is_method(message: str) -> bool:
    """True when the parser's excerpt, `b'BREW /path HTTP/1.1'`, begins with a word and a blank."""
    _, _, excerpt = message.partition("b'")
    word, blank, _ = excerpt.partition(" ")
    return bool(blank) and 0 < len(word) <= 32 and _METHOD_CHARACTERS.issuperset(word.encode())
