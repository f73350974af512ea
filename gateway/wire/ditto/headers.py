"""Header values: their JSON types in the protocol, their text forms over HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json
from gateway.model.thing import Headers, HeaderValue
from gateway.model.trace import TraceContext

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
DITTO: Final = "application/vnd.eclipse.ditto+json"
VALIDATION_DETAILS: Final = "validationDetails"
"""Member of error bodies: what of a payload does not fit its model, and why."""

DEFAULT_TIMEOUT: Final = 60.0
MESSAGE_TIMEOUT: Final = 10.0
MAX_TIMEOUT: Final = 60.0
MAX_CLAIM_TIMEOUT: Final = 600.0
MAX_HEADERS: Final = 128
MAX_HEADER_BYTES: Final = 5_120

_BOOLEANS: Final = frozenset(
    ("response-required", "dry-run", "allow-policy-lockout", "ditto-weak-ack", "ditto-sudo")
)
_LISTS: Final = frozenset(("requested-acks", "declared-acks"))
_DURATION = re.compile(r"(\d{1,9})(ms|s|m)?")
_UNITS: Final = {None: 1.0, "s": 1.0, "ms": 0.001, "m": 60.0}
_LABEL = re.compile(r"[a-zA-Z0-9\-_:]{3,165}")
LABEL_HINT: Final = "A label has 3 to 165 of a-z A-Z 0-9 - _ :"


def invalid_header(name: str, value: object, hint: str) -> GatewayError:
    """400 `header.invalid`, naming header, value and what was expected."""
    return BadRequest(
        f"The value '{str(value)[:200]}' of the header '{name}' is not valid.",
        code="header.invalid",
        description=hint,
    )


def duration(value: object, name: str = "timeout") -> float:
    """Seconds of `<n>`, `<n>s`, `<n>ms` or `<n>m`; no unit means seconds.

    Errors: BadRequest `header.invalid`.
    """
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise invalid_header(name, value, "It is a number with the unit ms, s (default) or m.")
    return int(match.group(1)) * _UNITS[match.group(2)]


def timeout_of(headers: Headers, default: float, most: float = MAX_TIMEOUT) -> float:
    """The `timeout` of a signal in seconds.

    Errors: BadRequest `header.invalid`, `timeout.invalid` when longer than allowed.
    """
    value = headers.get("timeout")
    if value is None:
        return default
    seconds = duration(value)
    if seconds > most:
        raise BadRequest(
            f"The timeout of {value} is not between 0 and {most:g} seconds.", code="timeout.invalid"
        )
    return seconds


def boolean(value: object, name: str) -> bool:
    """A boolean header, as JSON or as text.

    Errors: BadRequest `header.invalid`.
    """
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text not in ("true", "false"):
        raise invalid_header(name, value, "It is 'true' or 'false'.")
    return text == "true"


def labels(value: object, name: str = "requested-acks") -> list[str]:
    """Acknowledgement labels, from a JSON array, its text, or a comma list.

    Errors: BadRequest `header.invalid`.
    """
    if isinstance(value, str):
        text = value.strip().removeprefix("[").removesuffix("]")
        found = [item.strip().strip('"') for item in text.split(",") if item.strip()]
    elif isinstance(value, list):
        found = [str(item) for item in value]
    else:
        raise invalid_header(name, value, "It is a list of labels.")
    for label in found:
        if not is_label(label):
            raise invalid_header(name, label, LABEL_HINT)
    return found


def is_label(text: str) -> bool:
    """True for what may be the label of an acknowledgement."""
    return _LABEL.fullmatch(text) is not None


def read_headers(given: Mapping[str, Any]) -> dict[str, HeaderValue]:
    """Headers of an envelope: names in lower case, known ones in their types.

    Errors: BadRequest `header.invalid`; 431 `headers.too.large`.
    """
    if len(given) > MAX_HEADERS:
        raise _too_large(f"more than {MAX_HEADERS} headers")
    found: dict[str, HeaderValue] = {}
    size = 0
    for name, value in given.items():
        if value is None:
            continue
        lower = name.lower()
        size += len(name) + len(value if isinstance(value, str) else str(value))
        found[lower] = _typed(lower, value)
    if size > MAX_HEADER_BYTES:
        raise _too_large(f"{size} bytes of headers")
    return found


def _typed(name: str, value: Any) -> HeaderValue:
    if name in _BOOLEANS:
        return boolean(value, name)
    if name in _LISTS:
        return labels(value, name)
    if name == "correlation-id" and not isinstance(value, str):
        return str(value)
    typed: HeaderValue = value
    return typed


def _too_large(what: str) -> GatewayError:
    return GatewayError(
        f"The headers are too large: {what}.",
        status=431,
        code="headers.too.large",
        description=f"At most {MAX_HEADER_BYTES} bytes of headers in all.",
    )


def is_response_required(headers: Headers) -> bool:
    """What a sender wants to hear; true when it does not say."""
    return headers.get("response-required", True) is not False


def trace_of(headers: Headers) -> TraceContext | None:
    """The W3C trace context that headers carry."""
    parent, state = headers.get("traceparent"), headers.get("tracestate")
    return TraceContext.parse(
        parent if isinstance(parent, str) else None, state if isinstance(state, str) else None
    )


def is_json(content_type: str | None) -> bool:
    """True for `application/json` and `*+json`."""
    bare = (content_type or "").partition(";")[0].strip().lower()
    return bare == JSON or bare.endswith("+json")


def is_text(content_type: str | None) -> bool:
    """True for `text/*`."""
    return (content_type or "").lower().startswith("text/")


def error_json(error: GatewayError) -> dict[str, Json]:
    """Ditto's error body."""
    body: dict[str, Json] = {"status": error.status, "error": error.code, "message": error.message}
    if error.description:
        body["description"] = error.description
    details = error.details.get(VALIDATION_DETAILS)
    if isinstance(details, dict):
        body[VALIDATION_DETAILS] = details
    return body
