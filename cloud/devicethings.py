"""The things of Devices as the controller reads and writes them, as a subject of its own.

All Devices of a namespace share one policy, created if absent, never overwritten; things that exist already
are adopted with the policy that they have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from cloud.preconditions import unchanged
from gateway.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PreconditionFailed,
    RevisionConflict,
    Undeliverable,
)
from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.policy import PolicyCommand
from gateway.model.ports import SignalListener, Things
from gateway.model.thing import (
    NO_HEADERS,
    Action,
    Headers,
    Thing,
    ThingCommand,
    ThingEvent,
    ThingResult,
)
from gateway.model.trace import TraceContext
from gateway.twin.documents import MISSING
from gateway.twin.merge import merged
from gateway.wire.cloudedge.devices import DeviceView, mapping

log = logging.getLogger(__name__)

SUBJECT = "twinspan:devicecontroller"
ORIGINATOR = "twinspan-devicecontroller"
POLICY_NAME = "twinspan-devices"
_EXISTS: Headers = {"if-match": "*"}
"""A merge at the root would make a missing thing, with a policy of its own: never for Devices."""


class ThingGone(Undeliverable):
    """The thing is not there any more; it is to be made again."""

    code = "device.thing.gone"


class Policies(Protocol):
    """The policies service, as far as the controller needs it."""

    async def execute(self, command: PolicyCommand) -> ThingResult: ...


class ThingSignals(Protocol):
    """The things service's signals and its guard."""

    def listen(self, listener: SignalListener) -> Callable[[], None]: ...

    def add_change_guard(self, guard: Callable[[ThingEvent], None]) -> Callable[[], None]: ...


@dataclass(slots=True)
class Twinned:
    """What is known of one Device's thing."""

    thing_id: str
    thing: Thing | None = None
    is_loaded: bool = False
    trace: TraceContext | None = None
    patched: DeviceView | None = None
    """The Device as our last patch left it, until the watch has caught up."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class DeviceThings:
    """Commands to things of Devices."""

    def __init__(self, things: Things, policies: Policies, operators: Sequence[str]) -> None:
        self._things = things
        self._policies = policies
        self._operators = tuple(operators)
        self._known_policies: dict[str, bool] = {}
        """Policies that are there; True for those that we made."""
        self._making = asyncio.Lock()

    async def load(self, twin: Twinned) -> None:
        """Read the thing; not found may also mean that a policy hides it.

        What an event tells meanwhile is at least as new as what is read here, and stays.
        """
        before = twin.thing
        command = ThingCommand(
            thing_id=twin.thing_id,
            action=Action.RETRIEVE,
            subjects=(SUBJECT,),
            fields="thingId,policyId,attributes,features,_revision",
        )
        try:
            result = await self._things.execute(command)
            document = mapping(result.value)
            revision = result.revision or _number(document.get("_revision"))
            found = Thing(twin.thing_id, revision, document, "", "")
        except NotFound:
            found = None
        if twin.thing is before:
            twin.thing = found
        twin.is_loaded = True

    async def create(self, twin: Twinned, document: JsonObject, trace: TraceContext | None) -> None:
        """Make the thing. Errors: Forbidden when there is one, or a policy, that hides itself."""
        try:
            result = await self._command(twin.thing_id, Action.CREATE, document, trace)
        except NotFound as error:  # its policy is gone, or hidden
            policy_id = str(document["policyId"])
            if self._known_policies.pop(policy_id, False):
                raise Undeliverable(f"policy {policy_id} is gone, and is made again") from error
            raise Forbidden(f"policy {policy_id} exists and hides itself") from error
        except Conflict as error:
            await self.load(twin)
            if twin.thing is None:
                raise Forbidden(f"thing {twin.thing_id} exists, its policy hides it") from error
            raise
        if twin.thing is None:
            twin.thing = Thing(twin.thing_id, result.revision or 1, document, "", "")

    async def merge(
        self,
        twin: Twinned,
        patch: JsonObject,
        trace: TraceContext | None,
        decided_on: Iterable[Pointer] = (),
        *,
        said: Headers = NO_HEADERS,
    ) -> None:
        """Merge into the thing, from its root, where the places that were decided on are as they were known.

        Errors: ThingGone; RevisionConflict when one of the places is another; what the service answers.
        """
        places, headers = tuple(decided_on), _EXISTS
        if places and twin.thing is not None:
            headers = unchanged(twin.thing.document, twin.thing.revision, places)
        try:
            whole = {**headers, **said}
            result = await self._command(twin.thing_id, Action.MERGE, patch, trace, whole)
        except PreconditionFailed as error:
            if headers is not _EXISTS:
                twin.is_loaded = False  # it may be gone, too: that is seen when it is read again
                raise RevisionConflict(f"thing {twin.thing_id} was changed meanwhile") from error
            raise _gone(twin) from error
        except NotFound as error:
            raise _gone(twin) from error
        before, revision = twin.thing, result.revision or 0
        if before is None or revision <= before.revision:
            return  # the event was faster
        if revision > before.revision + 1:
            twin.is_loaded = False  # somebody was in between, whose event is still to come
            return
        after = merged(before.document, patch)
        if after is not MISSING:
            twin.thing = replace(before, revision=revision, document=mapping(after))

    async def delete(self, thing_id: str) -> None:
        """Delete a thing. Errors: NotFound; what the service answers."""
        await self._command(thing_id, Action.DELETE, None, None)

    async def policy(self, thing_id: str) -> str:
        """Return the shared policy of the thing's namespace; make it when it is missing."""
        policy_id = f"{thing_id.partition(':')[0]}:{POLICY_NAME}"
        async with self._making:
            if policy_id not in self._known_policies:
                self._known_policies[policy_id] = await self._make_policy(policy_id)
        return policy_id

    async def _make_policy(self, policy_id: str) -> bool:
        """Make a policy; False where there is one."""
        command = PolicyCommand(
            policy_id=policy_id,
            action=Action.CREATE,
            subjects=(SUBJECT, *self._operators),  # who makes a policy must be able to change it
            value=shared_policy(self._operators),
        )
        try:
            await self._policies.execute(command)
        except Conflict:
            log.debug("policy exists", extra={"policy": policy_id})
            return False
        return True

    async def _command(
        self,
        thing_id: str,
        action: Action,
        value: Json,
        trace: TraceContext | None,
        headers: Headers = NO_HEADERS,
    ) -> ThingResult:
        return await self._things.execute(
            ThingCommand(
                thing_id=thing_id,
                action=action,
                subjects=(SUBJECT,),
                value=value,
                headers=headers,
                originator=ORIGINATOR,
                trace=trace,
            )
        )


def _gone(twin: Twinned) -> ThingGone:
    twin.thing, twin.is_loaded = None, False
    return ThingGone(f"thing {twin.thing_id} is gone")


def shared_policy(operators: Sequence[str]) -> JsonObject:
    """Build the policy that Device things of a namespace share."""
    full: JsonObject = {"grant": ["READ", "WRITE"], "revoke": []}
    readable: JsonObject = {"grant": ["READ"], "revoke": []}
    owned: JsonObject = {"thing:/": full, "message:/": full, "policy:/": full}
    # who names a policy in a new thing must see it; and somebody must be able to change it
    controlled: JsonObject = {**owned, "policy:/": readable if operators else full}
    entries: JsonObject = {
        "CONTROLLER": {
            "subjects": {SUBJECT: {"type": "Twinspan DeviceController"}},
            "resources": controlled,
        }
    }
    if operators:
        entries["OPERATORS"] = {
            "subjects": {subject: {"type": "operators of devices"} for subject in operators},
            "resources": owned,
        }
    return {"entries": entries}


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 0
