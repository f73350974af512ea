"""What is wrong with a payload, gathered and told in one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.model.json import Pointer, format_pointer
from gateway.twin.ditto_errors import ditto_error

MAX_DETAILS: Final = 100
"""Places that one error names."""
DETAILS: Final = "validationDetails"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Shape:  `description` says it in a sentence; `details` say for each path what.
    """

    description: str
    details: tuple[tuple[Pointer, tuple[str, ...]], ...] = ()


def refusal(faults: Sequence[Fault]) -> GatewayError:
    """400 `wot:payload.validation.error`: the first fault in words, the details of all.

    Shape:  `details["validationDetails"]` is an object from path to array of texts, absent where no fault
            has any.
    """
    error = ditto_error("wot:payload.validation.error", reason=faults[0].description)
    told: dict[str, list[str]] = {}
    for fault in faults:
        for path, texts in fault.details:
            told.setdefault(format_pointer(path), []).extend(texts)
    shown = dict(list(told.items())[:MAX_DETAILS])
    return type(error)(
        error.message,
        description=error.description,
        code=error.code,
        details={DETAILS: shown} if shown else None,
    )
