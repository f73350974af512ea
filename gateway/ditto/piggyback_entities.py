"""Piggyback commands on things and policies: Ditto's internal commands become the services' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.ditto.piggyback import Piggyback, Run
from gateway.ditto.service import PoliciesService, SearchQuery, ThingsService
from gateway.errors import NotBuilt
from gateway.model.entity_id import check_entity_id
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.policy import PolicyCommand
from gateway.model.thing import Action, ThingCommand, ThingResult
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.fields import FieldSelector


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an entity that commands name.

    Shape:  `path` segments, `{member}` stands for a member of the command, `{*member}` for its pointer;
            `value` is the member that carries the part.
    """

    path: tuple[str, ...]
    value: str

    def pointer(self, asked: Piggyback) -> Pointer:
        found: list[str] = []
        for segment in self.path:
            if segment.startswith("{*"):
                found += parse_pointer(asked.text(segment[2:-1]))
            elif segment.startswith("{"):
                found.append(asked.text(segment[1:-1]))
            else:
                found.append(segment)
        return tuple(found)


_FEATURE: Final = ("features", "{featureId}")
_THING_PARTS: Final = {
    "Thing": Part((), "thing"),
    "PolicyId": Part(("policyId",), "policyId"),
    "ThingDefinition": Part(("definition",), "definition"),
    "Attributes": Part(("attributes",), "attributes"),
    "Attribute": Part(("attributes", "{*attribute}"), "value"),
    "Features": Part(("features",), "features"),
    "Feature": Part(_FEATURE, "feature"),
    "FeatureDefinition": Part((*_FEATURE, "definition"), "definition"),
    "FeatureProperties": Part((*_FEATURE, "properties"), "properties"),
    "FeatureProperty": Part((*_FEATURE, "properties", "{*property}"), "value"),
    "FeatureDesiredProperties": Part((*_FEATURE, "desiredProperties"), "desiredProperties"),
    "FeatureDesiredProperty": Part((*_FEATURE, "desiredProperties", "{*desiredProperty}"), "value"),
}
_ENTRY: Final = ("entries", "{label}")
_POLICY_PARTS: Final = {
    "Policy": Part((), "policy"),
    "PolicyEntries": Part(("entries",), "policyEntries"),
    "PolicyEntry": Part(_ENTRY, "policyEntry"),
    "Subjects": Part((*_ENTRY, "subjects"), "subjects"),
    "Subject": Part((*_ENTRY, "subjects", "{subjectId}"), "subject"),
    "Resources": Part((*_ENTRY, "resources"), "resources"),
    "Resource": Part((*_ENTRY, "resources", "{resourceKey}"), "resource"),
    "PolicyImports": Part(("imports",), "imports"),
    "PolicyImport": Part(("imports", "{importedPolicyId}"), "policyImport"),
}
_VERBS: Final = {
    "retrieve": Action.RETRIEVE,
    "modify": Action.MODIFY,
    "delete": Action.DELETE,
}


class ThingPiggybacks:
    """Commands on things."""

    def __init__(self, things: ThingsService) -> None:
        self._things = things

    def table(self) -> dict[str, Run]:
        """Type to what runs it."""
        family = "things.commands"
        return {
            **dict(_of_parts(family, _THING_PARTS, self._bound)),
            f"{family}:createThing": self._create,
            f"{family}:mergeThing": self._merge,
            f"{family}:retrieveThings": self._many,
            "things.sudo.commands:sudoRetrieveThing": self._sudo,
            "thing-search.commands:queryThings": self._query,
            "thing-search.commands:countThings": self._count,
            "thing-search.sudo.commands:sudoCountThings": self._sudo_count,
        }

    def _bound(self, action: Action, part: Part) -> Run:
        async def run(asked: Piggyback) -> JsonObject:
            value = _value(asked, part.value) if action is Action.MODIFY else None
            command = self._command(asked, action, part.pointer(asked), value)
            return _told(await self._things.execute(command), "thingId", asked, part.value)

        return run

    async def _create(self, asked: Piggyback) -> JsonObject:
        thing = _value(asked, "thing")
        thing_id = thing.get("thingId") if isinstance(thing, dict) else None
        inline = asked.command.get("initialPolicy")
        if not isinstance(thing, dict) or not isinstance(thing_id, str):
            raise ditto_error("json.field.missing", field="piggybackCommand.thing.thingId")
        if not asked.subjects:
            raise ditto_error("header.invalid", header="ditto-auth-context", hint=_WHO)
        value = {**thing, "_policy": inline} if inline is not None else thing
        named = Piggyback(asked.type, {**asked.command, "thingId": thing_id}, asked.headers)
        command = self._command(named, Action.CREATE, (), value)
        return _told(await self._things.execute(command), "thingId", named, "thing")

    async def _merge(self, asked: Piggyback) -> JsonObject:
        path = parse_pointer(asked.text("path"))
        command = self._command(asked, Action.MERGE, path, _value(asked, "value"))
        result = await self._things.execute(command)
        return {**_told(result, "thingId", asked, "value"), "path": asked.text("path")}

    async def _many(self, asked: Piggyback) -> JsonObject:
        listed = asked.command.get("thingIds")
        ids = [str(one) for one in listed] if isinstance(listed, list) else []
        for one in ids:
            check_entity_id(one, "things:id.invalid")
        if asked.is_sudo:
            raise NotBuilt("'retrieveThings' asks policies; use 'sudoRetrieveThing' one by one.")
        things = await self._things.retrieve_many(ids, asked.subjects, _fields(asked))
        return {"things": [*things]}

    async def _sudo(self, asked: Piggyback) -> JsonObject:
        command = self._command(_as_sudo(asked), Action.RETRIEVE, (), None)
        return _told(await self._things.execute(command), "thingId", asked, "thing")

    def _command(
        self, asked: Piggyback, action: Action, path: Pointer, value: Json
    ) -> ThingCommand:
        return ThingCommand(
            thing_id=asked.text("thingId"),
            action=action,
            subjects=asked.subjects,
            path=path,
            value=value,
            fields=_selected(asked) if action is Action.RETRIEVE else None,
            headers=asked.signal_headers,
            sudo=asked.is_sudo,
        )

    # --- searching --------------------------------------------------------------------------------

    async def _query(self, asked: Piggyback) -> JsonObject:
        page = await self._things.search(_search(asked))
        found: JsonObject = {"items": [*page.items]}
        if page.cursor is not None:
            found["cursor"] = page.cursor
        return {"searchResult": found}

    async def _count(self, asked: Piggyback) -> JsonObject:
        return {"count": await self._things.count(_search(asked))}

    async def _sudo_count(self, asked: Piggyback) -> JsonObject:
        if asked.command.get("filter") or asked.command.get("namespaces"):
            raise NotBuilt("'sudoCountThings' is built without filter and namespaces.")
        return {"count": await self._things.policies.store.total()}


class PolicyPiggybacks:
    """Commands on policies."""

    def __init__(self, policies: PoliciesService) -> None:
        self._policies = policies

    def table(self) -> dict[str, Run]:
        """Type to what runs it."""
        family = "policies.commands"
        return {
            **dict(_of_parts(family, _POLICY_PARTS, self._bound)),
            f"{family}:createPolicy": self._create,
            "policies.sudo.commands:sudoRetrievePolicy": self._sudo,
        }

    def _bound(self, action: Action, part: Part) -> Run:
        async def run(asked: Piggyback) -> JsonObject:
            value = _value(asked, part.value) if action is Action.MODIFY else None
            command = self._command(asked, action, part.pointer(asked), value)
            return _told(await self._policies.execute(command), "policyId", asked, part.value)

        return run

    async def _create(self, asked: Piggyback) -> JsonObject:
        policy = _value(asked, "policy")
        policy_id = policy.get("policyId") if isinstance(policy, dict) else None
        if not isinstance(policy, dict) or not isinstance(policy_id, str):
            raise ditto_error("json.field.missing", field="piggybackCommand.policy.policyId")
        named = Piggyback(asked.type, {**asked.command, "policyId": policy_id}, asked.headers)
        command = self._command(named, Action.CREATE, (), policy)
        return _told(await self._policies.execute(command), "policyId", named, "policy")

    async def _sudo(self, asked: Piggyback) -> JsonObject:
        command = self._command(_as_sudo(asked), Action.RETRIEVE, (), None)
        return _told(await self._policies.execute(command), "policyId", asked, "policy")

    def _command(
        self, asked: Piggyback, action: Action, path: Pointer, value: Json
    ) -> PolicyCommand:
        return PolicyCommand(
            policy_id=check_entity_id(asked.text("policyId"), "policies:id.invalid"),
            action=action,
            subjects=asked.subjects,
            path=path,
            value=value,
            fields=_selected(asked) if action is Action.RETRIEVE else None,
            headers=asked.signal_headers,
            sudo=asked.is_sudo,
        )


_WHO: Final = 'A new thing needs somebody who makes it: {"subjects": ["<issuer>:<subject>"]}.'


def _of_parts(
    family: str, parts: dict[str, Part], bound: Callable[[Action, Part], Run]
) -> Iterator[tuple[str, Run]]:
    for name, part in parts.items():
        for verb, action in _VERBS.items():
            yield f"{family}:{verb}{name}", bound(action, part)


def _as_sudo(asked: Piggyback) -> Piggyback:
    return Piggyback(asked.type, asked.command, {**asked.headers, "ditto-sudo": True})


def _value(asked: Piggyback, member: str) -> Json:
    if member not in asked.command:
        raise ditto_error("json.field.missing", field=f"piggybackCommand.{member}")
    return asked.command[member]


def _selected(asked: Piggyback) -> str | None:
    fields = asked.command.get("selectedFields")
    return fields if isinstance(fields, str) and fields else None


def _fields(asked: Piggyback) -> FieldSelector | None:
    text = _selected(asked)
    return FieldSelector.parse(text) if text else None


def _search(asked: Piggyback) -> SearchQuery:
    if asked.is_sudo:
        raise NotBuilt("Searching asks policies; leave 'ditto-sudo' out and name subjects.")
    given = asked.command
    options, namespaces = given.get("options"), given.get("namespaces")
    wanted = given.get("filter")
    return SearchQuery(
        subjects=asked.subjects,
        filter=wanted if isinstance(wanted, str) else None,
        fields=_selected(asked),
        options=",".join(map(str, options)) if isinstance(options, list) and options else None,
        namespaces=tuple(map(str, namespaces)) if isinstance(namespaces, list) else (),
    )


def _told(result: ThingResult, key: str, asked: Piggyback, member: str) -> JsonObject:
    told: JsonObject = {"status": result.status, key: asked.text(key)}
    if result.has_value:
        told[member] = result.value
    return told
