"""Ditto's error codes as a table: what each is called, its status and its texts.

Rules raise `ditto_error(code, **facts)`; a boundary renders `{status, error, message, description}` from
the result. The class of a result follows its status, so the outcome table knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway import errors
from gateway.errors import GatewayError
from gateway.model.json import Pointer, format_pointer


class NotModified(errors.Rejected):
    """A read whose entity tag the caller knows already; 304 without a body."""

    status = 304
    code = "things:precondition.notmodified"


class HeadersTooLarge(errors.Rejected):
    """All Ditto headers of one signal together are over their limit."""

    status = 431
    code = "headers.too.large"


class Misdirected(errors.Rejected):
    """What a request leads to (a Thing Model) cannot be had."""

    status = 421
    code = "wot:tm.notfound"


class TooManyRequests(errors.Rejected):
    """More waits than this service keeps for one entity."""

    status = 429
    code = "too.many.requests"


_CLASSES: Final[dict[int, type[GatewayError]]] = {
    304: NotModified,
    400: errors.BadRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    408: errors.CommandTimeout,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
    413: errors.TooLarge,
    415: errors.UnsupportedMediaType,
    421: Misdirected,
    422: errors.Unprocessable,
    429: TooManyRequests,
    431: HeadersTooLarge,
    501: errors.NotBuilt,
    503: errors.Undeliverable,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One error: `message` and `description` are templates over the facts of the place."""

    status: int
    message: str
    description: str | None = None


_CHECK_READ = "Check that the ID is right and that you are permitted to read it."
_CHECK_WRITE = "The ID may be wrong, or you lack 'WRITE' permission on this resource."

_THING_PARTS: Final[dict[str, str]] = {
    "attributes": "The attributes",
    "attribute": "The attribute '{path}'",
    "definition": "The definition",
    "policyId": "The policy ID",
    "features": "The features",
    "feature": "The feature '{feature}'",
    "feature.definition": "The definition of feature '{feature}'",
    "feature.properties": "The properties of feature '{feature}'",
    "feature.property": "The property '{path}' of feature '{feature}'",
    "feature.desiredProperties": "The desired properties of feature '{feature}'",
    "feature.desiredProperty": "The desired property '{path}' of feature '{feature}'",
}

_POLICY_PARTS: Final[dict[str, str]] = {
    "entry": "The entry '{label}'",
    "subjects": "The subjects of entry '{label}'",
    "subject": "The subject '{key}' of entry '{label}'",
    "resources": "The resources of entry '{label}'",
    "resource": "The resource '{key}' of entry '{label}'",
    "imports": "The imports",
    "import": "The import '{key}'",
}


def _parts(service: str, kind: str, parts: dict[str, str]) -> dict[str, Row]:
    """The two codes that each part of an entity has."""
    rows: dict[str, Row] = {}
    for part, subject in parts.items():
        rows[f"{service}:{part}.notfound"] = Row(
            404,
            f"{subject} of the {kind} with ID '{{id}}' does not exist or you may not access it.",
            _CHECK_READ,
        )
        rows[f"{service}:{part}.notmodifiable"] = Row(
            403,
            f"{subject} of the {kind} with ID '{{id}}' cannot be changed: 'WRITE' permission is missing.",
            _CHECK_WRITE,
        )
    return rows


def _conditional(service: str) -> dict[str, Row]:
    return {
        f"{service}:precondition.failed": Row(
            412,
            "The precondition header '{header}' with value '{expected}' does not hold: the actual entity"
            " tag is '{actual}'.",
            "Read the resource again and use its current entity tag.",
        ),
        f"{service}:precondition.notmodified": Row(
            304, "The entity tag is '{actual}', which '{expected}' excludes."
        ),
    }


_TABLE: Final[dict[str, Row]] = {
    **_parts("things", "Thing", _THING_PARTS),
    **_parts("policies", "Policy", _POLICY_PARTS),
    **_conditional("things"),
    **_conditional("policies"),
    **_conditional("connectivity"),
    # --- things ---
    "things:thing.notfound": Row(
        404, "The Thing with ID '{id}' does not exist or you may not access it.", _CHECK_READ
    ),
    "things:thing.notmodifiable": Row(
        403,
        "The Thing with ID '{id}' cannot be changed: 'WRITE' permission is missing.",
        _CHECK_WRITE,
    ),
    "things:thing.notdeletable": Row(
        403,
        "The Thing with ID '{id}' cannot be deleted: 'WRITE' permission is missing.",
        _CHECK_WRITE,
    ),
    "things:thing.notcreatable": Row(
        400, "The Thing with ID '{id}' cannot be created: {reason}", "{hint}"
    ),
    "things:thing.conflict": Row(
        409, "A Thing with ID '{id}' exists already.", "Choose another Thing ID."
    ),
    "things:thing.toolarge": Row(
        413,
        "The Thing would be {size} bytes large; at most {limit} bytes are allowed.",
        "Reduce the size of the Thing.",
    ),
    "things:thing.toomanymodifyingrequests": Row(
        429,
        "Too many commands wait for the Thing with ID '{id}'.",
        "Send fewer at a time, and try again later.",
    ),
    "things:thing.history.notfound": Row(
        404,
        "The Thing with ID '{id}' has no kept state at {at}.",
        "Check the revision or time, and how long history is kept.",
    ),
    "things:id.notsettable": Row(
        400,
        "The Thing ID in the body is '{found}', which is not allowed here{expected}.",
        "Leave it out of the body, or give the one of the path.",
    ),
    "things:id.invalid": Row(400, "The Thing ID '{id}' is not valid: {reason}", "{hint}"),
    "things:id.notdeletable": Row(400, "The Thing ID cannot be removed.", None),
    "things:policyId.notdeletable": Row(
        400,
        "The policy ID of the Thing with ID '{id}' cannot be removed.",
        "Set another one instead.",
    ),
    "things:policy.invalid": Row(
        400, "The policy given for the Thing with ID '{id}' is not valid.", "{reason}"
    ),
    "things:policy.conflicting": Row(
        400,
        "The Thing with ID '{id}' names both '_policy' and '_copyPolicyFrom'.",
        "Use one of the two.",
    ),
    "things:attribute.pointerinvalid": Row(400, "'{path}' is no valid attribute pointer.", None),
    "things:definition.identifier.invalid": Row(
        400,
        "The definition identifier '{value}' is not valid.",
        "It is '<namespace>:<name>:<version>' or an http(s) URL.",
    ),
    "things:feature.definition.empty": Row(
        400, "A feature definition needs at least one identifier.", None
    ),
    "things:merge.invalid": Row(400, "The merge patch is not valid: {reason}", None),
    "things:patch.invalid": Row(400, "The JSON Patch cannot be applied: {reason}", "RFC 6902"),
    "things:condition.failed": Row(
        412, "The condition '{condition}' does not hold{reason}.", "Check the condition."
    ),
    "things:condition.invalid": Row(
        400, "The condition '{condition}' is not valid: {reason}", "It is an RQL expression."
    ),
    "things:metadata.headersconflict": Row(
        400, "Only one of 'put-metadata', 'get-metadata' and 'delete-metadata' may be given.", None
    ),
    "things:metadata.notmodifiable": Row(
        400,
        "The metadata of the Thing with ID '{id}' cannot be changed by this command.",
        "Send 'put-metadata' and 'delete-metadata' with what creates or changes a value.",
    ),
    "things:ids.missing": Row(400, "No Thing IDs were given.", None),
    "things:event.notallowed": Row(
        403,
        "You may not send live events of the Thing with ID '{id}' on '{path}'.",
        "'WRITE' on that 'thing:' resource is needed.",
    ),
    "things:live.channelcondition.notallowed": Row(
        405,
        "The header 'live-channel-condition' is for queries; this command changes the Thing.",
        "Leave it out, or send a query.",
    ),
    # --- acknowledgements ---
    "acknowledgement:request.timeout": Row(
        408,
        "The acknowledgement did not come within {milliseconds}ms.",
        "Try a larger 'timeout', and check that somebody issues it.",
    ),
    "acknowledgement:label.not.unique": Row(
        409,
        "The acknowledgement label '{label}' is declared by somebody else already.",
        "Choose another label.",
    ),
    "acknowledgement:label.not.declared": Row(
        400,
        "The acknowledgement label '{label}' was not declared by its sender.",
        "Declare it with 'declared-acks' when the session or connection opens.",
    ),
    "acknowledgement:ditto.acklabel.forbidden": Row(
        400,
        "The acknowledgement label '{label}' is built in and cannot be declared or issued.",
        "Choose another label.",
    ),
    # --- policies ---
    "policies:policy.notfound": Row(
        404, "The Policy with ID '{id}' does not exist or you may not access it.", _CHECK_READ
    ),
    "policies:policy.notmodifiable": Row(
        403,
        "The Policy with ID '{id}' cannot be changed: 'WRITE' permission is missing.",
        _CHECK_WRITE,
    ),
    "policies:policy.notcreatable": Row(
        403,
        "The Policy with ID '{id}' cannot be created: you would not hold 'WRITE' on 'policy:/'.",
        "Give one of your subjects that permission, or send 'allow-policy-lockout: true'.",
    ),
    "policies:policy.modificationinvalid": Row(
        403, "The change would make the Policy with ID '{id}' unusable.", "{reason}"
    ),
    "policies:entry.modificationinvalid": Row(
        403,
        "The change of entry '{label}' would make the Policy with ID '{id}' unusable.",
        "{reason}",
    ),
    "policies:policy.conflict": Row(
        409, "A Policy with ID '{id}' exists already.", "Choose another Policy ID."
    ),
    "policies:policy.toolarge": Row(
        413,
        "The Policy would be {size} bytes large; at most {limit} bytes are allowed.",
        "Reduce the size of the Policy.",
    ),
    "policies:policy.toomanymodifyingrequests": Row(
        429, "Too many commands wait for the Policy with ID '{id}'.", "Try again later."
    ),
    "policies:entry.invalid": Row(400, "The policy entry is not valid: {reason}", None),
    "policies:label.invalid": Row(400, "The policy label '{label}' is not valid: {reason}", None),
    "policies:id.invalid": Row(400, "The Policy ID '{id}' is not valid: {reason}", "{hint}"),
    "policies:id.notsettable": Row(
        400,
        "The Policy ID in the body is '{found}', which is not allowed here{expected}.",
        "Leave it out of the body, or give the one of the path.",
    ),
    "policies:subjectid.invalid": Row(
        400, "The subject ID '{key}' is not valid.", "It is '<issuer>:<subject>'."
    ),
    "policies:subjectexpiry.invalid": Row(
        400,
        "The expiry '{value}' of a subject is not valid: {reason}",
        "It is an ISO 8601 instant to come.",
    ),
    "policies:subjectannouncement.invalid": Row(
        400, "The announcement of a subject's deletion is not valid: {reason}", None
    ),
    "policies:policy.history.notfound": Row(
        404,
        "The Policy with ID '{id}' has no kept state at {at}.",
        "Check the revision or time, and how long history is kept.",
    ),
    "policies:view.invalid": Row(
        400, "The policy view '{value}' is not known.", "It is 'original' or 'resolved'."
    ),
    "policies:action.failed": Row(404, "The action '{action}' failed.", "{reason}"),
    "policies:import.invalid": Row(400, "The policy import is not valid: {reason}", None),
    "policies:imports.toolarge": Row(400, "A policy imports at most {limit} others.", None),
    "policies:entry.referenceconflict": Row(
        409,
        "Entry '{label}' of the Policy with ID '{id}' has to stay and be shared: entry '{by}' refers to it.",
        "Remove the references first.",
    ),
    "policies:import.referenceconflict": Row(
        409,
        "Import '{key}' of the Policy with ID '{id}' has to stay: entry '{by}' refers to '{label}' of it.",
        "Remove the references first.",
    ),
    # --- messages ---
    "messages:send.notallowed": Row(
        403,
        "You may not send messages to the Thing with ID '{id}' on '{path}'.",
        "'WRITE' on that 'message:' resource is needed.",
    ),
    "messages:payload.toolarge": Row(
        413, "The message payload is {size} bytes large; at most {limit} bytes are allowed.", None
    ),
    "messages:subject.invalid": Row(400, "The message subject '{subject}' is not valid.", None),
    # --- search ---
    "thing-search:search.option.invalid": Row(
        400, "The search option is not valid: {reason}", None
    ),
    "thing-search:search.namespaces.invalid": Row(
        400, "The namespace '{namespace}' is not valid.", None
    ),
    # --- no service ---
    "entity.notcreatable": Row(
        403,
        "The entity with ID '{id}' cannot be created: the rules of this service do not allow it.",
        "Choose another namespace, or ask the operator.",
    ),
    "cloudevent.unparsable": Row(
        400, "The cloud event could not be read: {reason}.", "See CloudEvents 1.0, HTTP binding."
    ),
    "cloudevent.payload.missing": Row(
        400, "The cloud event has no payload.", "It carries a message of the Ditto Protocol."
    ),
    "cloudevent.dataschema.unsupported": Row(
        400, "The data schema '{schema}' is not supported.", "It begins with 'ditto:'."
    ),
    "namespace.blocked": Row(
        409,
        "The namespace '{namespace}' is blocked: an operator works on it.",
        "Try again later.",
    ),
    "command.timeout": Row(
        408,
        "The command timed out after {milliseconds}ms.",
        "Try a larger 'timeout', and check that somebody listens.",
    ),
    "header.notsupported": Row(
        400, "The value '{value}' of header '{header}' is not supported for this resource.", None
    ),
    "header.invalid": Row(400, "The value '{value}' of header '{header}' is not valid.", "{hint}"),
    "json.invalid": Row(400, "The JSON is not valid: {reason}", "{hint}"),
    "json.field.missing": Row(400, "The JSON has no field '{field}'.", None),
    "json.key.invalid": Row(
        400,
        "The JSON key '{key}' is not valid.",
        "Keys are not empty and have no '/' or control characters.",
    ),
    "json.pointer.invalid": Row(400, "The JSON pointer '{path}' is not valid.", None),
    "rql.expression.invalid": Row(400, "The RQL expression is not valid: {reason}", None),
    "placeholder:placeholder.reference.notsupported": Row(
        400,
        "The reference '{reference}' is not supported.",
        "Use '{{ ref:things/<id>/policyId }}'.",
    ),
    "placeholder:placeholder.reference.unknownfield": Row(
        400, "The reference '{reference}' names a field that it cannot.", "Use 'policyId'."
    ),
    "protocoladapter:unknown.path": Row(400, "The path '{path}' is not known.", None),
    # --- Web of Things ---
    "wot:tm.notfound": Row(
        421,
        "The WoT ThingModel at URL '{url}' could not be accessed.",
        "Make sure that this service may reach it, and that it answers with a ThingModel.",
    ),
    "wot:tm.invalid": Row(400, "The WoT ThingModel at URL '{url}' is not valid: {reason}.", None),
    "wot:tm.ref.invalid": Row(
        400,
        "The 'tm:ref' of value '{ref}' in a WoT ThingModel is not valid.",
        "It is '<URL of a ThingModel>#/<JSON pointer of an object>'.",
    ),
    "wot:tm.placeholder.unresolved": Row(
        400,
        "The placeholder '{placeholder}' of the WoT ThingModel has no value.",
        "Give it one in the object 'model-placeholders' of the Thing's attributes or the Feature's"
        " properties.",
    ),
    "wot:definition.invalid": Row(
        404,
        "The definition '{definition}' names no WoT ThingModel.",
        "A WoT ThingDescription needs an http(s) URL as definition.",
    ),
    "wot:payload.validation.error": Row(
        400, "The payload does not conform to its WoT (Web of Things) model.", "{reason}"
    ),
    "wot:validation.error": Row(
        400, "The payload cannot be judged by its WoT (Web of Things) model: {reason}.", None
    ),
    "wot:skeleton.generation.failed": Row(
        400, "No Thing could be generated from the definition '{definition}'.", "{reason}"
    ),
    "wot.validation.config:invalid": Row(
        400, "The configuration of WoT validation is not valid: {reason}.", None
    ),
    "gateway:namespace.notaccessible": Row(
        403,
        "The namespace '{namespace}' may not be accessed.",
        "Check whether your credentials are meant for this namespace.",
    ),
    "wot.validation.config:notaccessible": Row(
        404,
        "There is no configuration of WoT validation{which}.",
        "Put one, or ask for '/devops/wot/config/merged'.",
    ),
    "wot.validation.config:precondition.failed": Row(
        412,
        "The value of the header '{header}' ({expected}) does not fit the entity tag: {actual}.",
        "Read the configuration again.",
    ),
    "wot.validation.config:precondition.notmodified": Row(
        304, "The configuration of WoT validation has the entity tag {actual}.", None
    ),
}


class _Facts(dict[str, object]):
    """Facts for a template; what is not given stays empty."""

    def __missing__(self, key: str) -> str:
        return ""


def ditto_error(
    code: str,
    known: Mapping[str, object] | None = None,
    /,
    *,
    status: int | None = None,
    **facts: object,
) -> GatewayError:
    """Build the error of a code; facts (and `known` ones) fill its texts and become its details.

    Shape:  `path` may be a pointer; `status` overrides the table where Ditto hands on a cause's status.
    Errors: KeyError for a code that is not in the table: a bug.
    """
    row = _TABLE[code]
    facts = {**(known or {}), **facts}
    filled = _Facts(facts)
    if isinstance(facts.get("path"), tuple):
        pointer: Pointer = facts["path"]  # type: ignore[assignment]
        filled["path"] = format_pointer(pointer)
    description = row.description.format_map(filled) if row.description else None
    actual = status or row.status
    details = {key: value for key, value in filled.items() if key in ("id", "path", "etag")}
    return _class_of(actual)(
        row.message.format_map(filled),
        description=description or None,
        code=code,
        status=actual,
        details=details,
    )


def _class_of(status: int) -> type[GatewayError]:
    return _CLASSES.get(status, GatewayError)


def codes() -> frozenset[str]:
    """All codes of the table (tests compare them with what is raised)."""
    return frozenset(_TABLE)
