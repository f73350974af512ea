"""The states of a connection, from either end."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """Where a connection stands."""

    FIRST_HEADER = enum.auto()
    SASL_INIT = enum.auto()
    SASL_ASKED = enum.auto()
    SECOND_HEADER = enum.auto()
    OPEN = enum.auto()
    OPEN_ASKED = enum.auto()
    OPENED = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


WAITING: Final = (State.SASL_ASKED, State.OPEN_ASKED)
HEADERS: Final = (State.FIRST_HEADER, State.SECOND_HEADER)
OVER: Final = (State.CLOSING, State.CLOSED)
