"""`/devops/piggyback`: an operator's command in Ditto's internal form, run past the usual doors.

What runs a command is found by its type; each room adds the types that it can truly do, and what nobody added
is 501. Source: Ditto, operating.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from aiohttp import hdrs, web

from gateway.ditto.endpoint import json_response, not_allowed
from gateway.ditto.health import INSTANCE
from gateway.ditto.request import (
    JSON_TYPE,
    MAX_TIMEOUT,
    ApiCall,
    parse_json,
    read_body,
    require_type,
    timeout_of,
)
from gateway.errors import GatewayError, NotBuilt
from gateway.model.json import Json, JsonObject
from gateway.model.thing import HeaderValue
from gateway.observe.metrics import Metrics
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ditto.headers import error_json

MAX_BODY: Final = 262_144
MAX_SUBJECTS: Final = 100


@dataclass(frozen=True, slots=True)
class Piggyback:
    """One command.

    Shape:  `type` as `things.commands:retrieveThing`; `command` all members; `headers` those that came with
            it: `ditto-sudo` asks no policy, else it is run for the subjects of `ditto-auth-context`.
    """

    type: str
    command: JsonObject
    headers: JsonObject

    @property
    def name(self) -> str:
        return self.type.partition(":")[2]

    @property
    def response_type(self) -> str:
        family, _, name = self.type.partition(":")
        return f"{family.removesuffix('commands')}responses:{name}"

    @property
    def is_sudo(self) -> bool:
        return self.headers.get("ditto-sudo") in (True, "true")

    @property
    def subjects(self) -> tuple[str, ...]:
        context = self.headers.get("ditto-auth-context")
        subjects = context.get("subjects") if isinstance(context, dict) else None
        listed = subjects if isinstance(subjects, list) else []
        return tuple(str(one) for one in listed[:MAX_SUBJECTS])

    @property
    def signal_headers(self) -> dict[str, HeaderValue]:
        """What the command itself may carry on: an operator's conditions and correlation id."""
        return {
            name: value
            for name, value in self.headers.items()
            if isinstance(value, str) and not name.startswith("ditto-")
        }

    def text(self, name: str) -> str:
        """A member that has to be a text.

        Errors: BadRequest `json.field.missing`.
        """
        value = self.command.get(name)
        if not isinstance(value, str):
            raise ditto_error("json.field.missing", field=f"piggybackCommand.{name}")
        return value


Run: TypeAlias = Callable[[Piggyback], Awaitable[JsonObject]]
"""Does a command; what it returns is the response without its type, `status` 200 where it says none."""


class Piggybacks:
    """The commands that there are, and the handler of the route."""

    def __init__(self, *tables: Mapping[str, Run], metrics: Metrics | None = None) -> None:
        self._runs: dict[str, Run] = {}
        self._metrics = metrics
        for table in tables:
            self.add(table)

    def add(self, table: Mapping[str, Run]) -> None:
        """Add commands by their whole types."""
        self._runs.update(table)

    async def post(self, call: ApiCall) -> web.StreamResponse:
        """`POST /devops/piggyback[/{service}[/{instance}]]`.

        Shape:  with the header `aggregate` of the body the response stands below service and instance, else
                it is the answer, and its `status` the answer's.
        """
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        timeout_of(call.headers, MAX_TIMEOUT, MAX_TIMEOUT)
        asked = await _read(call)
        if asked.headers.get("aggregate") not in (True, "true"):
            answer = await self.run(asked)
            return json_response(answer, _status_of(answer))
        service = call.request.path.removeprefix("/devops/piggyback").strip("/").partition("/")[0]
        told = await self._told(asked)
        return json_response({service or asked.type.partition(".")[0]: {INSTANCE: told}})

    async def run(self, asked: Piggyback) -> JsonObject:
        """Run a command; raises what it is refused with.

        Errors: NotBuilt for a type that nobody does.
        """
        run = self._runs.get(asked.type)
        if run is None:
            raise NotBuilt(
                f"The piggyback command '{asked.type[:200]}' is not built.",
                description="Twinspan's docs/compatibility.md lists what is there.",
            )
        if asked.is_sudo and self._metrics is not None:
            self._metrics.sudo_commands.labels(asked.type).inc()
        return {"type": asked.response_type, "status": 200, **await run(asked)}

    async def _told(self, asked: Piggyback) -> JsonObject:
        """As `run`, with a refusal as a response."""
        try:
            return await self.run(asked)
        except GatewayError as error:
            family = asked.response_type.partition(":")[0]
            return {
                "type": f"{family}:errorResponse",
                "status": error.status,
                "payload": error_json(error),
            }


async def _read(call: ApiCall) -> Piggyback:
    require_type(call.request, (JSON_TYPE,))
    body = parse_json(await read_body(call.request, MAX_BODY))
    asked = body if isinstance(body, dict) else {}
    command = _object(asked.get("piggybackCommand"), "piggybackCommand")
    kind = command.get("type")
    if not isinstance(kind, str):
        raise ditto_error("json.field.missing", field="piggybackCommand.type")
    headers = asked.get("headers")
    return Piggyback(kind, command, headers if isinstance(headers, dict) else {})


def _object(value: Json, field: str) -> JsonObject:
    if not isinstance(value, dict):
        raise ditto_error("json.field.missing", field=field)
    return value


def _status_of(answer: JsonObject) -> int:
    status = answer["status"]
    assert isinstance(status, int)  # noqa: S101  our own tables say so
    return 200 if status == 204 else status  # there is a body
