"""Loads the Kafka client library when it is needed, and turns its words into ours.

The library is an extra: who does not use Kafka does not load it. Its log lines go to our log, its exceptions
at construction are bad settings.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from gateway.errors import InvalidSetting, Undeliverable

log = logging.getLogger(__name__)

T = TypeVar("T")

SAME_SECONDS: Final = 10.0
"""How long a trouble that goes on is not logged again."""


class BrokerUnavailable(Undeliverable):
    """The broker did not take a record: it is away, too slow, or refuses."""

    code = "broker.unavailable"


def library() -> Any:
    """Return the module `confluent_kafka`.

    Errors: InvalidSetting where it is not installed.
    """
    try:
        return importlib.import_module("confluent_kafka")
    except ImportError as error:
        raise InvalidSetting(
            "hono.kafka.bootstrap_servers: needs the Kafka client: pip install 'twinspan[kafka]'"
        ) from error


def admin_library() -> Any:
    """Return the module `confluent_kafka.admin`; errors as `library`."""
    library()
    return importlib.import_module("confluent_kafka.admin")


def made(make: Callable[[dict[str, Any]], T], properties: Mapping[str, Any]) -> T:
    """Make a client; nothing is sent before it is used.

    Errors: InvalidSetting for a property that librdkafka does not know or take.
    """
    try:
        return make({**properties, "logger": LibraryLog()})
    except library().KafkaException as error:
        raise InvalidSetting(f"hono.kafka: {text_of(error.args[0])}") from error
    except (TypeError, ValueError) as error:
        raise InvalidSetting(f"hono.kafka: {error}") from error


def text_of(error: Any) -> str:
    """Return what librdkafka says; a plain text where it is no KafkaError."""
    say = getattr(error, "str", None)
    return say() if callable(say) else str(error)


class Seldom:
    """Lets the same thing be said once in `SAME_SECONDS`."""

    def __init__(self) -> None:
        self._until: dict[object, float] = {}

    def is_due(self, what: object) -> bool:
        """True when `what` was not said lately; then it counts as said."""
        now = time.monotonic()
        if now < self._until.get(what, 0.0):
            return False
        self._until = {said: until for said, until in self._until.items() if until > now}
        self._until[what] = now + SAME_SECONDS
        return True


class LibraryLog:
    """Takes librdkafka's log lines: constant text, its words as facts."""

    def log(self, level: int, form: str, *facts: object) -> None:
        """Pass a line on."""
        log.log(min(level, logging.WARNING), "kafka client", extra={"line": form % facts})
