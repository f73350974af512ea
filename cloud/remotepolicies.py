"""The policies of things elsewhere. They name the subject of our credentials where ours would name itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from cloud.devicethings import SUBJECT
from cloud.remotehttp import RemoteHttp, segment
from cloud.remotethings import Cover
from gateway.errors import Conflict, Forbidden, NotBuilt, PreconditionFailed
from gateway.model.json import Json, JsonObject
from gateway.model.policy import PolicyCommand
from gateway.model.thing import Action, ThingResult

NOT_MODIFIABLE: Final = "policies:policy.notmodifiable"
"""Said of a policy that is there and is not ours to change; permissions are looked at before conditions."""


class RemotePolicies:
    """Port `Policies` over HTTP: makes policies, and never changes one that is there.

    Shape:  `subject` gives the authorization subject that our credentials are at the remote.
    """

    def __init__(self, http: RemoteHttp, cover: Cover, subject: Callable[[], str]) -> None:
        self._http = http
        self._cover = cover
        self._subject = subject

    async def execute(self, command: PolicyCommand) -> ThingResult:
        """Make a policy. Errors: Conflict when it exists; what the remote answers; Undeliverable."""
        if command.action is not Action.CREATE or command.path:
            raise NotBuilt(f"{command.action} of policies at a remote Ditto")
        await self._cover.cover(command.policy_id.partition(":")[0])
        value = with_subject(command.value, SUBJECT, self._subject())
        try:
            answer = await self._http.call(
                "PUT",
                f"/api/2/policies/{segment(command.policy_id)}",
                # we hand the policy to the operators and keep no right to change it ourselves
                query={"allow-policy-lockout": "true"},
                headers={"if-none-match": "*"},
                body=msgspec.json.encode(value),
            )
        except (PreconditionFailed, Forbidden) as error:
            if isinstance(error, Forbidden) and error.code != NOT_MODIFIABLE:
                raise
            raise Conflict(error.message, code="policies:policy.conflict") from error
        return ThingResult(status=answer.status)


def with_subject(value: Json, ours: str, theirs: str) -> Json:
    """Return a policy in which `theirs` stands where `ours` stood."""
    if not isinstance(value, dict):
        return value
    entries = value.get("entries")
    if not isinstance(entries, dict):
        return value
    return {**value, "entries": {n: _entry(entry, ours, theirs) for n, entry in entries.items()}}


def _entry(entry: Json, ours: str, theirs: str) -> Json:
    subjects = entry.get("subjects") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(subjects, dict):
        return entry
    renamed: JsonObject = {theirs if n == ours else n: one for n, one in subjects.items()}
    return {**entry, "subjects": renamed}
