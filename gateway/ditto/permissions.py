"""May a caller do this, and that? The same answers over HTTP, WebSocket and connections."""

from __future__ import annotations

from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import BadRequest, GatewayError
from gateway.model.entity_id import check_entity_id, namespace_of
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.policy import Permission
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.namespaces import UNLIMITED, Access
from gateway.twin.policy import MASKS

MAX_QUESTIONS = 100
KINDS = frozenset(("thing", "message", "policy"))


class PermissionChecks:
    """Answers questions about permissions."""

    def __init__(self, things: ThingsService, policies: PoliciesService) -> None:
        self._things = things
        self._policies = policies

    async def answers(
        self, asked: Json, subjects: tuple[str, ...], access: Access = UNLIMITED
    ) -> JsonObject:
        """Answer each question by its name.

        Errors: BadRequest `json.invalid`, `json.field.missing`, `*:id.invalid`.
        """
        if not isinstance(asked, dict) or len(asked) > MAX_QUESTIONS:
            raise ditto_error(
                "json.invalid", reason=f"an object of at most {MAX_QUESTIONS} questions is expected"
            )
        return {
            name: await self._answer(question, subjects, access) for name, question in asked.items()
        }

    async def _answer(self, question: Json, subjects: tuple[str, ...], access: Access) -> bool:
        kind, path, entity_id, mask = _read(question)
        scope = access.policies if kind == "policy" else access.things
        if not scope.admits(namespace_of(entity_id)):
            return False
        policy_id = await self._policy_of(kind, entity_id)
        enforcer = self._policies.known_enforcer(policy_id) if policy_id else None
        if enforcer is None:
            return False
        namespace, now = namespace_of(entity_id), self._policies.now()
        permissions = enforcer.permissions(subjects, namespace, now)
        return all(permissions.unrestricted(kind, path, one) for one in mask)

    async def _policy_of(self, kind: str, entity_id: str) -> str | None:
        """The policy that decides, in memory afterwards; None for an entity that is not there."""
        if kind == "policy":
            check_entity_id(entity_id, "policies:id.invalid")
            return entity_id if await self._policies.load(entity_id) else None
        check_entity_id(entity_id, "things:id.invalid")
        thing = await self._things.load(entity_id)
        return thing.policy_id if thing else None


def _read(question: Json) -> tuple[str, Pointer, str, list[int]]:
    if not isinstance(question, dict):
        raise ditto_error("json.invalid", reason="a question is an object")
    kind, _, path = _text(question.get("resource"), "resource").partition(":")
    if kind not in KINDS:
        raise BadRequest(
            f"'{kind[:100]}' is no resource type.",
            code="json.invalid",
            description=f"Resource types: {', '.join(sorted(KINDS))}.",
        )
    wanted = question.get("hasPermissions")
    if not isinstance(wanted, list) or not wanted:
        raise ditto_error("json.field.missing", field="hasPermissions")
    entity_id = _text(question.get("entityId"), "entityId")
    return kind, parse_pointer(path), entity_id, [MASKS[_permission(one)] for one in wanted]


def _text(value: Json, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise ditto_error("json.field.missing", field=field)
    return value


def _permission(value: Json) -> Permission:
    try:
        return Permission(str(value))
    except ValueError as error:
        raise _unknown(str(value)) from error


def _unknown(value: str) -> GatewayError:
    return BadRequest(f"'{value[:100]}' is no permission.", code="json.invalid")
