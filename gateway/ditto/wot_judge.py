"""Judges changes and messages against Thing Models, by the switches of the moment.

Where the switches say so, what does not fit is logged and let pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from gateway.ditto.wot_config_service import WotConfig
from gateway.errors import GatewayError
from gateway.model.thing import (
    Thing,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
)
from gateway.observe.metrics import Metrics
from gateway.twin.wot.model import Models
from gateway.twin.wot.validation import (
    check_change,
    definitions_of,
    definitions_of_change,
)
from gateway.twin.wot.validation_messages import check_message, check_response
from gateway.twin.wot.validation_rules import Rules
from gateway.twin.wot.validation_schema import Schemas

log = logging.getLogger(__name__)

_FITS: Final = "fits"
_LOGGED: Final = "logged"
_REFUSED: Final = "refused"


class WotJudge:
    """Implements the port `Judge`; keeps the compiled schemas."""

    def __init__(self, config: WotConfig, metrics: Metrics) -> None:
        self._config = config
        self._schemas = Schemas()
        self._outcomes = {
            name: metrics.wot_validations.labels(name) for name in (_FITS, _LOGGED, _REFUSED)
        }

    def wants_change(self, command: ThingCommand, event: ThingEvent) -> bool:
        """False where the switches judge nothing of it."""
        definitions = definitions_of_change(event)
        return self._config.rules_for(command.headers, command.subjects, definitions).enabled

    def wants_message(self, message: ThingMessage, thing: Thing) -> bool:
        """The same for a message."""
        return self._rules_of(message, thing).enabled

    def change(self, command: ThingCommand, event: ThingEvent, models: Models) -> None:
        """Judge a change that is about to be stored.

        Errors: 400 `wot:payload.validation.error`.
        """
        definitions = definitions_of_change(event)
        rules = self._config.rules_for(command.headers, command.subjects, definitions)
        self._judge(
            rules,
            lambda: check_change(command, event, models, rules, self._schemas),
            command.thing_id,
        )

    def message(self, message: ThingMessage, thing: Thing, models: Models) -> None:
        """Judge a message; errors as `change`."""
        rules = self._rules_of(message, thing)
        self._judge(
            rules,
            lambda: check_message(message, thing, models, rules, self._schemas),
            message.thing_id,
        )

    def response(
        self, message: ThingMessage, answer: ThingMessageResponse, thing: Thing, models: Models
    ) -> None:
        """Judge the answer to a message; errors as `change`."""
        rules = self._rules_of(message, thing)
        self._judge(
            rules,
            lambda: check_response(message, answer, thing, models, rules, self._schemas),
            message.thing_id,
        )

    def _rules_of(self, message: ThingMessage, thing: Thing) -> Rules:
        definitions = definitions_of(thing, message.feature_id)
        return self._config.rules_for(message.headers, message.subjects, definitions)

    def _judge(self, rules: Rules, check: Callable[[], None], thing_id: str) -> None:
        if not rules.enabled:
            return
        try:
            check()
        except GatewayError as error:
            if not rules.log_warning_instead_of_failing_api_calls:
                self._outcomes[_REFUSED].inc()
                raise
            self._outcomes[_LOGGED].inc()
            log.warning(
                "payload does not fit its thing model",
                extra={"thing": thing_id, "cause": error.description or error.message},
            )
            return
        self._outcomes[_FITS].inc()
