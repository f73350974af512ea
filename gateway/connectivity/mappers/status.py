"""`ConnectionStatus`: since when and until when a device listens, from Hono's `ttd`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from gateway.connectivity.errors import mapper_invalid, mapping_failed
from gateway.connectivity.mappers.base import External, Incoming, Outgoing, required, topic_of
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.wire.ditto.placeholders import Scope, Template

NAME = "ConnectionStatus"
DEFINITION = "org.eclipse.ditto:ConnectionStatus:1.0.0"
FOREVER = "9999-12-31T23:59:59Z"
_MAX_TTD = 10 * 365 * 86_400


class ConnectionStatusMapper:
    """Options: `thingId` (required), `featureId`. Inbound only."""

    def __init__(self, options: JsonObject) -> None:
        thing_id = options.get("thingId")
        if not isinstance(thing_id, str) or not thing_id:
            raise mapper_invalid(NAME, "'thingId' is missing")
        try:
            self._thing_id = Template.parse(thing_id)
            self._feature_id = Template.parse(str(options.get("featureId", NAME)))
        except GatewayError as error:
            raise mapper_invalid(NAME, error.message) from error

    def incoming(self, message: External, scope: Scope) -> Sequence[Incoming]:
        ttd = message.headers.get("ttd")
        if ttd is None:
            return ()
        status = _status(_integer(ttd, "ttd"), _since(message.headers.get("creation-time")))
        thing_id = required(self._thing_id.resolve(scope), NAME, "the Thing ID")
        feature_id = required(self._feature_id.resolve(scope), NAME, "the feature ID")
        made = Incoming.made(
            topic_of(thing_id, "twin/commands/modify"),
            f"/features/{feature_id}",
            {"response-required": False},
            {"definition": [DEFINITION], "properties": {"status": status}},
        )
        return (made,)

    def outgoing(self, _signal: Outgoing) -> External | None:
        return None


def _integer(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise mapping_failed(NAME, f"header '{name}' is no number") from error


def _since(millis: str | None) -> datetime:
    if millis is None:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(_integer(millis, "creation-time") / 1_000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise mapping_failed(NAME, "header 'creation-time' is out of range") from error


def _status(ttd: int, since: datetime) -> JsonObject:
    if ttd == 0:
        return {"readyUntil": _instant(since)}
    if ttd == -1:
        return {"readySince": _instant(since), "readyUntil": FOREVER}
    if not 0 < ttd <= _MAX_TTD:
        raise mapping_failed(NAME, f"a ttd of {ttd} has no meaning")
    return {"readySince": _instant(since), "readyUntil": _instant(since + timedelta(seconds=ttd))}


def _instant(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
