"""Which mappers there are, and how a connection's document becomes configured ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gateway.connectivity.errors import mapper_invalid
from gateway.connectivity.mappers.base import DittoMapper, Mapper
from gateway.connectivity.mappers.cloudevents import CloudEventsMapper
from gateway.connectivity.mappers.creation import ThingCreationMapper
from gateway.connectivity.mappers.jsonpath import JsonPathMapper
from gateway.connectivity.mappers.live import LiveResponseMapper
from gateway.connectivity.mappers.normalized import NormalizedMapper
from gateway.connectivity.mappers.raw import RawMessageMapper
from gateway.connectivity.mappers.status import ConnectionStatusMapper
from gateway.connectivity.model import Connection, MapperDefinition
from gateway.errors import NotBuilt
from gateway.model.json import JsonObject
from gateway.wire.ditto.placeholders import Expression, Scope

ENGINES: dict[str, Callable[[JsonObject], Mapper]] = {
    "Ditto": lambda _options: DittoMapper(),
    "RawMessage": RawMessageMapper,
    "Normalized": NormalizedMapper,
    "ImplicitThingCreation": ThingCreationMapper,
    "ConnectionStatus": ConnectionStatusMapper,
    "CloudEvents": lambda _options: CloudEventsMapper(),
    "UpdateTwinWithLiveResponse": LiveResponseMapper,
    "JsonPath": JsonPathMapper,
}
NOT_BUILT = frozenset(("JavaScript",))


@dataclass(frozen=True, slots=True)
class Configured:
    """A mapper under its name in the connection, with the conditions for its use."""

    name: str
    mapper: Mapper
    incoming: tuple[Expression, ...] = ()
    outgoing: tuple[Expression, ...] = ()


def applies(conditions: Iterable[Expression], scope: Scope) -> bool:
    """True when every condition resolves to something."""
    return all(condition.resolve(scope) for condition in conditions)


def configured(connection: Connection) -> Mapping[str, Configured]:
    """All mappers that a connection names.

    Errors: NotBuilt for an engine that is not there yet; BadRequest
            `connectivity:message.mapper.config.invalid`.
    """
    names = {name for source in connection.sources for name in source.mappers}
    names |= {name for target in connection.targets for name in target.mappers}
    names |= set(connection.mappers)
    return {name: _configured(name, connection.mappers.get(name)) for name in sorted(names)}


def _configured(name: str, given: MapperDefinition | None) -> Configured:
    definition = given or MapperDefinition(name, {})
    if definition.engine in NOT_BUILT:
        raise NotBuilt(
            f"The payload mapper '{definition.engine}' is not built.",
            description=f"Mappers that are: {', '.join(sorted(ENGINES))}.",
        )
    engine = ENGINES.get(definition.engine)
    if engine is None:
        raise mapper_invalid(name, f"the engine '{definition.engine[:100]}' is unknown")
    mapper = engine(definition.options)
    return Configured(name, mapper, definition.incoming, definition.outgoing)
