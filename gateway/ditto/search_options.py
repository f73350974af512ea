"""What a search asks, in Ditto's words: query, options, and the cursor that a page ends with."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError
from gateway.model.json import Json, parse_pointer
from gateway.store.search import Place, SortKey
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.namespaces import EVERYWHERE, Scope
from gateway.twin.rql import SEARCH_ROOTS

DEFAULT_SIZE: Final = 25
MAX_SIZE: Final = 200
MAX_KEYS: Final = 32
"""Properties to sort by; each is one more table to look at."""
_MAX_CURSOR: Final = 524_288
"""Characters; a cursor holds the filter."""
_DIGEST: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """A search as `/search/things` and the protocol's `search/subscribe` ask it.

    Shape:  `filter` RQL (several filters are joined by `gateway.twin.rql.joined`); `options` Ditto's text,
            e.g. `sort(+attributes/a,-thingId),size(50)`; `namespaces` empty for all.
    """

    subjects: tuple[str, ...]
    filter: str | None = None
    fields: str | None = None
    options: str | None = None
    namespaces: tuple[str, ...] = ()
    after: str | None = None
    """The last thing that the caller has got: the page begins after it."""
    scope: Scope = EVERYWHERE
    """The namespaces that the caller may touch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """One page: `cursor` and `next_page_offset` are None where Ditto leaves them out."""

    items: list[Json]
    cursor: str | None = None
    next_page_offset: int | None = None
    ids: tuple[str, ...] = ()
    """The things' ids, also where the fields asked for leave them out."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `option` says; None where it says nothing."""

    sort: tuple[SortKey, ...] = ()
    size: int | None = None
    cursor: str | None = None
    limit: tuple[int, int] | None = None

    @property
    def page_size(self) -> int:
        return self.limit[1] if self.limit else self.size or DEFAULT_SIZE


class Cursor(msgspec.Struct):
    """Where a listing goes on: the sort values of the last item, and what was asked."""

    filter: str | None
    namespaces: tuple[str, ...]
    sort: str
    values: list[Any]
    thing_id: str


def following(query: SearchQuery, cursor: str) -> SearchQuery:
    """The query of the next page: a cursor stands for filter and order, the size goes with it."""
    sizes = [o for o in (query.options or "").split(",") if o.strip().startswith("size(")]
    return replace(query, filter=None, options=",".join([*sizes, f"cursor({cursor})"]), after=None)


_OPTION = re.compile(r"\s*(sort|size|cursor|limit)\(([^)]*)\)\s*(?:,|$)")


def parse_options(text: str | None) -> Options:
    """Read Ditto's `option`.

    Errors: BadRequest `thing-search:search.option.invalid`.
    """
    found: dict[str, str] = {}
    at = 0
    while text and at < len(text):
        match = _OPTION.match(text, at)
        if match is None:
            raise invalid_option(
                f"'{text[at : at + 100]}' is not sort(), size(), cursor() or limit()"
            )
        found[match.group(1)] = match.group(2).strip()
        at = match.end()
    return Options(
        read_sort(found["sort"]) if "sort" in found else (),
        _number(found["size"], "size", 1) if "size" in found else None,
        found.get("cursor"),
        _limit(found["limit"]) if "limit" in found else None,
    )


def invalid_option(reason: str) -> GatewayError:
    """400 for options that cannot be served."""
    return ditto_error("thing-search:search.option.invalid", reason=reason)


def read_sort(text: str) -> tuple[SortKey, ...]:
    """The keys of `sort(...)`."""
    keys = []
    for item in text.split(","):
        sign, name = item.strip()[:1], item.strip()[1:]
        if sign == " ":
            sign = "+"
        if sign not in ("+", "-") or not name:
            raise invalid_option(f"sort: '{item}' begins with neither '+' nor '-'")
        pointer = parse_pointer(name)
        if pointer[0] not in SEARCH_ROOTS:
            raise invalid_option(f"sort: the property '{name}' is unknown")
        keys.append(SortKey(pointer, sign == "-"))
    if len(keys) > MAX_KEYS:
        raise invalid_option(f"sort: more than {MAX_KEYS} properties")
    return tuple(keys)


def _number(text: str, name: str, least: int, most: int = MAX_SIZE) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text[:9]) <= most:
        raise invalid_option(f"{name} is between {least} and {most}, got '{text[:20]}'")
    return int(text)


def _limit(text: str) -> tuple[int, int]:
    offset, comma, count = text.partition(",")
    if not comma:
        raise invalid_option("limit has an offset and a count")
    return _number(offset.strip(), "limit", 0, 10**8), _number(count.strip(), "limit", 1)


def sort_keys(options: Options) -> tuple[SortKey, ...]:
    """The keys that order: up to the id, which orders the rest; the id itself only where it descends."""
    keys: list[SortKey] = []
    for key in options.sort:
        if key.pointer == ("thingId",):
            return (*keys, key) if key.is_descending else tuple(keys)
        keys.append(key)
    return tuple(keys)


# --- cursors -----------------------------------------------------------------------------------


def next_cursor(query: SearchQuery, options: Options, last: Place) -> str | None:
    """Where the page after `last` begins; None where pages are counted instead."""
    if options.limit:
        return None
    plan_sort = ",".join(key.text for key in options.sort)
    cursor = Cursor(query.filter, query.namespaces, plan_sort, list(last.values), last.thing_id)
    body = msgspec.json.encode(cursor)
    return base64.urlsafe_b64encode(_digest(body) + body).decode().rstrip("=")


def _digest(body: bytes) -> bytes:
    """Tells a damaged cursor; a forged one gives its owner no more than asking anew would."""
    return blake2b(body, digest_size=_DIGEST).digest()


def next_offset(options: Options, cursor: Cursor | None, offset: int, has_more: bool) -> int | None:
    """`nextPageOffset` where Ditto gives one: -1 at the end."""
    if cursor is not None or options.size is not None:
        return None
    return offset + options.page_size if has_more else -1


def read_cursor(options: Options, query: SearchQuery) -> Cursor:
    """The cursor of the options.

    Errors: BadRequest `thing-search:search.option.invalid` for a damaged one, or one of another query.
    """
    if options.limit:
        raise invalid_option("a cursor fixes where the page begins, there is no limit beside it")
    text = (options.cursor or "")[:_MAX_CURSOR]
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if raw[:_DIGEST] != _digest(raw[_DIGEST:]):
            raise invalid_option("the cursor is not one of ours")
        cursor = msgspec.json.decode(raw[_DIGEST:], type=Cursor)
        keys = read_sort(cursor.sort) if cursor.sort else ()
    except (ValueError, msgspec.DecodeError, GatewayError) as error:
        raise invalid_option("the cursor is not one of ours") from error
    values = cursor.values
    if len(sort_keys(Options(keys))) != len(values) or not all(map(_is_scalar, values)):
        raise invalid_option("the cursor is not one of ours")
    if query.filter is not None and query.filter != cursor.filter:
        raise invalid_option("the cursor belongs to another filter")
    if options.sort and _whole(options.sort) != _whole(keys):
        raise invalid_option("the cursor belongs to another order")
    return cursor


def _whole(keys: tuple[SortKey, ...]) -> tuple[SortKey, ...]:
    """The keys with the id that ends them: what follows it orders nothing."""
    by_id = SortKey(("thingId",))
    names = [key.pointer for key in keys]
    return keys[: names.index(by_id.pointer) + 1] if by_id.pointer in names else (*keys, by_id)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def resumed(query: SearchQuery, cursor: Cursor) -> SearchQuery:
    """The query that a cursor goes on with."""
    return SearchQuery(
        subjects=query.subjects,
        filter=cursor.filter,
        fields=query.fields,
        options=query.options,
        namespaces=cursor.namespaces,
        scope=query.scope,
    )
