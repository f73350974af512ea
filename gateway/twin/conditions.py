"""Conditional requests: entity tags, `If-Match`, `If-None-Match`, `if-equal`."""

from __future__ import annotations

import enum
import hashlib
import re

from gateway.errors import GatewayError
from gateway.model.json import Json
from gateway.model.thing import Headers
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import stable

_TAG = re.compile(r'\s*((?:W/)?"[^"]*")\s*(?:,|$)')
ANY = "*"


class IfEqual(enum.StrEnum):
    """What a change to an equal value does."""

    UPDATE = "update"
    SKIP = "skip"
    SKIP_MINIMIZING_MERGE = "skip-minimizing-merge"

    @classmethod
    def of(cls, headers: Headers) -> IfEqual:
        """Read the header; `update` without it.

        Errors: BadRequest `header.invalid`.
        """
        value = headers.get("if-equal", cls.UPDATE)
        try:
            return cls(str(value))
        except ValueError as error:
            raise ditto_error(
                "header.invalid", header="if-equal", value=value, hint=f"One of {', '.join(cls)}."
            ) from error


def revision_tag(revision: int) -> str:
    """The entity tag of a whole thing or policy."""
    return f'"rev:{revision}"'


def value_tag(value: Json) -> str:
    """The entity tag of a part: equal values have equal tags."""
    digest = hashlib.blake2b(stable(value), digest_size=8).hexdigest()
    return f'"hash:{digest}"'


def parse_tags(header: str, text: str) -> tuple[str, ...]:
    """Read a list of entity tags, or `*`.

    Errors: BadRequest `header.invalid`.
    Source: RFC 9110, section 13.1; weak tags are read, and never equal.
    """
    if text.strip() == ANY:
        return (ANY,)
    tags: list[str] = []
    at = 0
    while at < len(text):
        match = _TAG.match(text, at)
        if match is None:
            break
        tags.append(match.group(1))
        at = match.end()
    if not tags or at < len(text):
        raise ditto_error(
            "header.invalid",
            header=header,
            value=text[:200],
            hint='It is "*" or quoted entity tags.',
        )
    return tuple(tags)


def check_tags(headers: Headers, actual: str | None, *, service: str, is_read: bool) -> None:
    """Judge `if-match`, then `if-none-match`, against the resource's tag (None: it is absent).

    Errors: 412 `precondition.failed`, for reads 304 `precondition.notmodified`; both carry `etag` in their
            details. 400 `header.invalid`.
    """
    wanted = headers.get("if-match")
    if wanted is not None and not _matches(parse_tags("if-match", str(wanted)), actual):
        raise _failed(service, "if-match", str(wanted), actual)
    unwanted = headers.get("if-none-match")
    if unwanted is None or not _matches(parse_tags("if-none-match", str(unwanted)), actual):
        return
    if is_read:
        code = f"{service}:precondition.notmodified"
        raise ditto_error(code, expected=unwanted, actual=actual, etag=actual)
    raise _failed(service, "if-none-match", str(unwanted), actual)


def _matches(tags: tuple[str, ...], actual: str | None) -> bool:
    return actual is not None and (tags == (ANY,) or actual in tags)


def _failed(service: str, header: str, expected: str, actual: str | None) -> GatewayError:
    return ditto_error(
        f"{service}:precondition.failed",
        {"etag": actual} if actual else None,
        header=header,
        expected=expected,
        actual=actual or "",
    )


def equal_refused(service: str, actual: str | None) -> GatewayError:
    """412 of `if-equal: skip`: the value is what it was, nothing was stored."""
    return ditto_error(
        f"{service}:precondition.failed",
        {"etag": actual} if actual else None,
        header="if-equal",
        expected="skip",
        actual=actual or "",
    )
