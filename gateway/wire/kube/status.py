"""Kubernetes `Status`: what a client is told about an error, and the errors that only Kubernetes has.

Inner code raises `GatewayError`s; facts for the body travel in `details`: `reason`, `resource` (plural),
`group`, `kind`, `name`, `uid`, `causes`, `retryAfterSeconds`. `status_of` is the one renderer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    Gone,
    MethodNotAllowed,
    NotBuilt,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    Rejected,
    TooLarge,
    Unauthenticated,
    Undeliverable,
    Unprocessable,
    UnsupportedMediaType,
)
from gateway.model.json import Json, JsonObject


class AlreadyExists(Conflict):
    """A create met an object of that name."""

    code = "kube:already.exists"


class NotAcceptable(Rejected):
    """The client takes no form that the server has."""

    status = 406
    code = "kube:not.acceptable"


class TooEarly(Undeliverable):
    """The asked-for resourceVersion lies in the future."""

    status = 504
    code = "kube:timeout"


REASONS: tuple[tuple[type[GatewayError], str], ...] = (
    (Unauthenticated, "Unauthorized"),
    (Forbidden, "Forbidden"),
    (NotFound, "NotFound"),
    (MethodNotAllowed, "MethodNotAllowed"),
    (Conflict, "Conflict"),
    (Gone, "Expired"),
    (TooLarge, "RequestEntityTooLarge"),
    (UnsupportedMediaType, "UnsupportedMediaType"),
    (Unprocessable, "Invalid"),
    (PreconditionFailed, "Conflict"),
    (QuotaExceeded, "TooManyRequests"),
    (BadRequest, "BadRequest"),
    (NotAcceptable, "NotAcceptable"),
    (NotBuilt, "NotImplemented"),
    (Undeliverable, "ServiceUnavailable"),
    (GatewayError, "InternalError"),
)


@dataclass(frozen=True, slots=True)
class Cause:
    """One fault of an object.

    Shape:  `reason` is Kubernetes' machine-readable word, `message` what came and what was wrong with it,
            `field` its path, e.g. `spec.properties[0].name`.
    """

    reason: str
    message: str
    field: str

    @property
    def text(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def as_json(self) -> JsonObject:
        return {"reason": self.reason, "message": self.message, "field": self.field}


def group_resource(plural: str, group: str) -> str:
    """`pods`, or `devices.devices.kubeedge.io` as messages write it."""
    return f"{plural}.{group}" if group else plural


def not_found(plural: str, group: str, name: str) -> NotFound:
    return NotFound(
        f'{group_resource(plural, group)} "{name}" not found',
        details={"name": name, "group": group, "kind": plural},
    )


def already_exists(plural: str, group: str, name: str) -> AlreadyExists:
    return AlreadyExists(
        f'{group_resource(plural, group)} "{name}" already exists',
        details={"reason": "AlreadyExists", "name": name, "group": group, "kind": plural},
    )


def conflict(plural: str, group: str, name: str, why: str | None = None) -> Conflict:
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    return Conflict(
        f'Operation cannot be fulfilled on {group_resource(plural, group)} "{name}": {why}',
        details={"name": name, "group": group, "kind": plural},
    )


def forbidden(plural: str, group: str, name: str, why: str) -> Forbidden:
    named = f' "{name}"' if name else ""
    return Forbidden(
        f"{group_resource(plural, group)}{named} is forbidden: {why}",
        details={"name": name, "group": group, "kind": plural},
    )


def namespace_ending(plural: str, group: str, name: str, namespace: str) -> Forbidden:
    """403 for a create in a namespace that is being deleted; controllers look for its cause."""
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    refused = forbidden(plural, group, name, why)
    told = f"namespace {namespace} is being terminated"
    cause = Cause("NamespaceTerminating", told, "metadata.namespace")
    return Forbidden(refused.message, details={**refused.details, "causes": [cause.as_json()]})


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> Unprocessable:
    """422 with one cause per fault, in the form that kubectl prints; what is said twice shows once."""
    texts = list(dict.fromkeys(cause.text for cause in causes))
    faults = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    return Unprocessable(
        f'{group_resource(kind, group)} "{name}" is invalid: {faults}',
        details={
            "name": name,
            "group": group,
            "kind": kind,
            "causes": [cause.as_json() for cause in causes],
        },
    )


def denied(webhook: str, why: str) -> BadRequest:
    """400 without a reason, as an API server answers for an admission webhook that says no."""
    text = f'admission webhook "{webhook}" denied the request: {why}'
    return BadRequest(text, details={"reason": ""})


def expired(message: str, page: str = "") -> Gone:
    """410; `page` is a token with which a list goes on all the same, inconsistently."""
    details: dict[str, object] = {"reason": "Expired"}
    if page:
        details["continue"] = page
    return Gone(message, details=details)


_NO_DETAILS: Mapping[str, object] = {"details": {}}
"""What clients are told where an answer has details, and none to give."""


def not_served() -> NotFound:
    """404 for a path below a group that is there."""
    text = "the server could not find the requested resource"
    return NotFound(text, details=dict(_NO_DETAILS))


def not_allowed() -> MethodNotAllowed:
    """405 for a method that a resource does not have."""
    return MethodNotAllowed("the server does not allow this method on the requested resource")


def future_version(asked: int, current: int) -> TooEarly:
    return TooEarly(
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details={
            "reason": "Timeout",
            "retryAfterSeconds": 1,
            "causes": [
                {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            ],
        },
    )


def reason_of(error: GatewayError) -> str:
    """The machine-readable word of an error."""
    own = error.details.get("reason")
    if isinstance(own, str):
        return own
    return next(reason for cls, reason in REASONS if isinstance(error, cls))


_DETAIL_KEYS = ("name", "group", "kind", "uid", "causes", "retryAfterSeconds")


def status_of(error: GatewayError) -> JsonObject:
    """Render an error as a `Status` object."""
    details = {key: error.details[key] for key in _DETAIL_KEYS if error.details.get(key)}
    page = error.details.get("continue")
    status: JsonObject = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {"continue": page} if isinstance(page, str) else {},
        "status": "Failure",
        "message": error.message,
        "code": error.status,
    }
    reason = reason_of(error)
    if reason:
        status["reason"] = reason
    if details or error.details.get("details") == {}:
        status["details"] = cast("Json", details)
    return status


def success(name: str, group: str, plural: str, uid: str) -> JsonObject:
    """The answer to a delete that took effect at once."""
    details: JsonObject = {"name": name, "kind": plural, "uid": uid}
    if group:
        details["group"] = group
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }


def error_from(status: Mapping[str, Json], code: int) -> GatewayError:
    """Turn a `Status` from another API server into the error that a caller here expects."""
    cls = _BY_CODE.get(code, Undeliverable if code >= 500 else BadRequest)
    if status.get("reason") == "AlreadyExists":
        cls = AlreadyExists
    details = status.get("details")
    facts: dict[str, object] = dict(details) if isinstance(details, dict) else {}
    facts["reason"] = str(status.get("reason") or "")
    message = str(status.get("message") or f"the server answered {code}")
    return cls(message, status=code, details=facts)


_BY_CODE: dict[int, type[GatewayError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    415: UnsupportedMediaType,
    422: Unprocessable,
    429: QuotaExceeded,
    504: TooEarly,
}
