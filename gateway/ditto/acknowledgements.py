"""Requested acknowledgements: when a caller gets a plain answer, none, or one per label.

Built in are `twin-persisted` (a durable change), `live-response` (an answered message) and
`search-persisted`, which follows at once because searching reads what is stored. Labels of own issuers are
not built and are refused, never waited for in vain. Source: Ditto, acknowledgements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import NotBuilt
from gateway.model.json import Json, JsonObject
from gateway.model.thing import HeaderValue, ThingResult
from gateway.twin.ditto_errors import ditto_error

BUILT_IN = frozenset(("twin-persisted", "live-response", "search-persisted"))


@dataclass(frozen=True, slots=True)
class Requested:
    """What a caller wants to be told.

    Shape:  `labels` in the order asked; `default` is the one that a plain answer stands for.
    """

    response_required: bool
    labels: tuple[str, ...]
    default: str

    @property
    def is_plain(self) -> bool:
        return self.labels in ((), (self.default,))


def requested(headers: Mapping[str, HeaderValue], default: str) -> Requested:
    """Read `response-required`, `requested-acks` and `timeout` together.

    Errors: BadRequest `header.invalid` where the timeout is 0 but an answer is asked for; NotBuilt for
            labels that others would have to issue.
    """
    given = headers.get("requested-acks")
    labels = tuple(str(label) for label in given) if isinstance(given, list) else None
    foreign = [label for label in labels or () if label not in BUILT_IN]
    if foreign:
        raise NotBuilt(
            f"The acknowledgement '{foreign[0]}' has no issuer: own labels are not built."
        )
    no_time = str(headers.get("timeout", "")).strip().rstrip("ms") == "0"
    required = headers.get("response-required", not no_time and labels != ())
    if no_time and (required or labels):
        raise ditto_error(
            "header.invalid", header="timeout", value="0", hint="An answer needs a timeout above 0."
        )
    return Requested(bool(required), labels if labels is not None else (default,), default)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An answer per label, and the status of all together."""

    status: int
    body: JsonObject

    @classmethod
    def of(cls, wanted: Requested, result: ThingResult) -> Acknowledged:
        """The aggregate for a command that succeeded."""
        return cls(200, {label: _of_label(label, result) for label in wanted.labels})


def _of_label(label: str, result: ThingResult) -> Json:
    if label != "twin-persisted":
        return {"status": 204, "headers": {}}
    headers: JsonObject = {}
    if result.etag:
        headers["etag"] = result.etag
    if result.revision is not None:
        headers["entity-revision"] = result.revision
    body: JsonObject = {"status": result.status, "headers": headers}
    if result.has_value:
        body["payload"] = result.value
    return body
