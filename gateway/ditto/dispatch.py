"""From a command or message to what its sender is told: twin or device, one answer or all acknowledgements.

Every shell (HTTP, WebSocket, connections) sends here and renders the outcome in its own form, so that the
rules of channels, acknowledgements and timeouts are in this one place. Source: Ditto, acknowledgements and
smart channel selection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias, TypeVar

from gateway.ditto.acknowledgements import (
    LIVE_RESPONSE,
    SEARCH_PERSISTED,
    SEARCHABLE,
    TWIN_PERSISTED,
    Ack,
    Acknowledgements,
    Requested,
    missed,
    requested,
    wanted_of,
)
from gateway.ditto.desk import Answer, Collected, Desk, Told
from gateway.ditto.live import LiveChannel
from gateway.errors import CommandTimeout, GatewayError
from gateway.model.json import Json
from gateway.model.thing import (
    LIVE,
    TWIN,
    Action,
    HeaderValue,
    ThingCommand,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, Maybe
from gateway.wire.ditto.headers import DEFAULT_TIMEOUT, timeout_of
from gateway.wire.ditto.read import Response

Outcome: TypeAlias = ThingResult | ThingMessageResponse | Acknowledgements | GatewayError
Tell: TypeAlias = Callable[[Outcome], None]
Peek: TypeAlias = Callable[[ThingCommand], "ThingResult | None"]
Submit: TypeAlias = Callable[[ThingCommand, Callable[["ThingResult | GatewayError"], None]], None]

USE_TWIN: Final = "use-twin"
_STRATEGIES: Final = frozenset(("fail", USE_TWIN))
_CONDITION: Final = "live-channel-condition"
_STRATEGY: Final = "live-channel-timeout-strategy"
_STEERING: Final = frozenset((_CONDITION, _STRATEGY, "timeout"))
"""Headers that say where a query goes, and how long that may take."""

Signal = TypeVar("Signal", ThingCommand, ThingMessage)


class Dispatcher:
    """Sends signals and collects what their senders are told. Each `tell` is called exactly once."""

    def __init__(self, submit: Submit, peek: Peek, desk: Desk, live: LiveChannel) -> None:
        self._submit = submit
        self._peek = peek
        self._desk = desk
        self._live = live

    def at_once(self, signal: ThingCommand | ThingMessage) -> ThingResult | None:
        """The answer to a plain query of a twin that is in memory; None for what has to be `run`.

        Errors: those of `ThingsService.peek`.
        """
        if isinstance(signal, ThingMessage) or signal.action is not Action.RETRIEVE:
            return None
        if signal.channel != TWIN or not _STEERING.isdisjoint(signal.headers):
            return None
        return self._peek(signal)

    def run(
        self, signal: ThingCommand | ThingMessage, tell: Tell, wanted: Requested | None = None
    ) -> None:
        """Do what a signal asks.

        Shape:  without an answer to wait for, a live signal's outcome is 202 once it is with its receivers.
        Errors (through `tell`): those of `ThingsService.submit` and `LiveChannel`; BadRequest for headers
                that do not fit together; 405 `things:live.channelcondition.notallowed`; 408
                `command.timeout`.
        """
        try:
            if isinstance(signal, ThingMessage):
                self._message(signal, wanted or wanted_of(signal), tell)
            elif signal.action is Action.RETRIEVE:
                self._query(signal, tell)
            elif _CONDITION in signal.headers:
                raise ditto_error("things:live.channelcondition.notallowed")
            elif signal.channel == LIVE:
                self._device(signal, wanted or wanted_of(signal), tell)
            else:
                self._change(signal, wanted or wanted_of(signal), tell)
        except GatewayError as error:
            tell(error)

    # --- the twin ---------------------------------------------------------------------------------

    def _change(self, command: ThingCommand, wanted: Requested, tell: Tell) -> None:
        if wanted.is_plain:
            self._twin(command, wanted.timeout or DEFAULT_TIMEOUT, tell)
            return

        def finished(collected: Collected | GatewayError) -> None:
            tell(_aggregate(command, wanted, collected, _ack_of))

        waiter = self._desk.expect(
            command.thing_id,
            _correlation_of(command),
            wanted.labels,
            finished,
            lambda _answer: False,
            wanted.timeout,
        )

        def done(answer: ThingResult | GatewayError) -> None:
            if isinstance(answer, GatewayError):
                waiter.end(answer)
                return
            waiter.take(TWIN_PERSISTED, answer)
            waiter.take(SEARCH_PERSISTED, SEARCHABLE)
            waiter.settled()

        self._submit(_marked(command, waiter.correlation_id, wanted), done)

    def _twin(self, command: ThingCommand, seconds: float, tell: Tell) -> None:
        once = _Once(tell)
        self._submit(command, once.tell)
        once.expect_within(seconds)

    # --- queries ----------------------------------------------------------------------------------

    def _query(self, command: ThingCommand, tell: Tell) -> None:
        strategy = str(command.headers.get(_STRATEGY, "fail")).lower()
        if strategy not in _STRATEGIES:
            hint = "It is 'fail' or 'use-twin'."
            raise ditto_error("header.invalid", header=_STRATEGY, value=strategy, hint=hint)
        seconds = timeout_of(command.headers, DEFAULT_TIMEOUT) or DEFAULT_TIMEOUT
        if _CONDITION in command.headers:
            self._smart(command, seconds, strategy, tell)
        elif command.channel == LIVE:
            self._device_query(command, seconds, strategy, tell, {})
        else:
            self._twin(command, seconds, tell)

    def _smart(self, command: ThingCommand, seconds: float, strategy: str, tell: Tell) -> None:
        """The device where the condition holds, else the twin."""

        def chosen(matched: bool | GatewayError) -> None:
            if isinstance(matched, GatewayError):
                tell(matched)
                return
            marks: dict[str, HeaderValue] = {f"{_CONDITION}-matched": matched}
            if matched:
                self._device_query(replace(command, channel=LIVE), seconds, strategy, tell, marks)
            else:
                twin = replace(command, channel=TWIN)
                self._twin(twin, seconds, _with_headers(tell, {"channel": TWIN, **marks}))

        self._live.choose(command, chosen)

    def _device_query(
        self,
        command: ThingCommand,
        seconds: float,
        strategy: str,
        tell: Tell,
        marks: dict[str, HeaderValue],
    ) -> None:
        def answered(outcome: Outcome) -> None:
            if isinstance(outcome, CommandTimeout) and strategy == USE_TWIN:
                twin = replace(command, channel=TWIN)
                self._twin(twin, seconds, _with_headers(tell, {"channel": TWIN, **marks}))
            else:
                _with_headers(tell, {"channel": LIVE, **marks})(outcome)

        headers = {k: v for k, v in command.headers.items() if k != "response-required"}
        self._device(command, requested(headers, LIVE_RESPONSE, seconds), answered)

    # --- the device -------------------------------------------------------------------------------

    def _device(self, command: ThingCommand, wanted: Requested, tell: Tell) -> None:
        def answer_of(answer: Told) -> Outcome:
            return self._result_of(command, answer)

        def sent(answer: ThingCommand | GatewayError) -> None:
            tell(answer if isinstance(answer, GatewayError) else ThingResult(status=202))

        def fits(answer: Answer) -> bool:
            return isinstance(answer, Response) and _answers(command, answer)

        if not wanted.awaited:
            self._live.command(command, sent)
            return
        correlation_id = _correlation_of(command)
        waiter = self._desk.expect(
            command.thing_id,
            correlation_id,
            wanted.awaited,
            _finished(command, wanted, answer_of, tell),
            fits,
            wanted.timeout,
        )
        outgoing = _marked(command, waiter.correlation_id, wanted)
        self._live.command(outgoing, lambda answer: _ended_by(waiter.end, answer))

    def _result_of(self, command: ThingCommand, answer: Told) -> Outcome:
        """What a device said to a live command, reduced to what its sender may read."""
        if not isinstance(answer, Response):
            raise TypeError(f"{type(answer).__name__} is no answer to a live command")
        if answer.topic.criterion == "errors":
            return _device_error(answer)
        value: Maybe = answer.value if answer.has_value else MISSING
        if command.action is Action.RETRIEVE and answer.status == 200:
            value = self._live.readable(command, value)
        etag = answer.headers.get("etag")
        return ThingResult(
            status=answer.status,
            value=None if value is MISSING else value,
            has_value=value is not MISSING,
            etag=etag if isinstance(etag, str) else None,
            headers={"ditto-originator": answer.subjects[0]} if answer.subjects else {},
        )

    def _message(self, message: ThingMessage, wanted: Requested, tell: Tell) -> None:
        def sent(answer: ThingMessage | GatewayError) -> None:
            tell(answer if isinstance(answer, GatewayError) else _accepted(message))

        def answer_of(answer: Told) -> Outcome:
            if isinstance(answer, Response):
                return _device_error(answer)
            if isinstance(answer, ThingMessageResponse):
                own = replace(answer, correlation_id=message.correlation_id)
                return self._live.judged(message, own)
            raise TypeError(f"{type(answer).__name__} is no answer to a message")

        if not wanted.awaited:
            self._live.message(message, sent)
            return
        waiter = self._desk.expect(
            message.thing_id,
            message.correlation_id,
            wanted.awaited,
            _finished(message, wanted, answer_of, tell),
            _answers_message,
            wanted.timeout,
        )
        outgoing = replace(message, correlation_id=waiter.correlation_id)
        if not wanted.is_plain:
            headers = {**message.headers, "requested-acks": list(wanted.labels)}
            outgoing = replace(outgoing, headers=headers)
        self._live.message(outgoing, lambda answer: _ended_by(waiter.end, answer))


class _Once:
    """Lets the first outcome through: an answer, or that none came in time."""

    __slots__ = ("_tell", "_timer")

    def __init__(self, tell: Tell) -> None:
        self._tell: Tell | None = tell
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, outcome: Outcome) -> None:
        told, self._tell = self._tell, None
        if self._timer is not None:
            self._timer.cancel()
        if told is not None:
            told(outcome)

    def expect_within(self, seconds: float) -> None:
        """Wait no longer than this for what has not been answered yet."""
        if self._tell is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._late, seconds)

    def _late(self, seconds: float) -> None:
        self.tell(command_timeout(seconds))


def command_timeout(seconds: float) -> GatewayError:
    """The one answer to a command that nobody answered in time."""
    return ditto_error("command.timeout", milliseconds=f"{round(seconds * 1_000):,}")


def _correlation_of(command: ThingCommand) -> str:
    return str(command.headers.get("correlation-id", ""))


def _marked(command: ThingCommand, correlation_id: str, wanted: Requested) -> ThingCommand:
    """The command as it goes out: answers name this id, and these labels are waited for."""
    headers = {**command.headers, "correlation-id": correlation_id}
    if not wanted.is_plain:
        headers["requested-acks"] = list(wanted.labels)
    return replace(command, headers=headers)


def _ended_by(
    end: Callable[[GatewayError], None], answer: ThingCommand | ThingMessage | GatewayError
) -> None:
    if isinstance(answer, GatewayError):
        end(answer)


def _with_headers(tell: Tell, headers: dict[str, HeaderValue]) -> Tell:
    def told(outcome: Outcome) -> None:
        if isinstance(outcome, ThingResult):
            outcome = replace(outcome, headers={**outcome.headers, **headers})
        elif isinstance(outcome, GatewayError):
            outcome.details = {**outcome.details, "headers": headers}
        tell(outcome)

    return told


# --- what was collected ------------------------------------------------------------------------


def _finished(
    signal: ThingCommand | ThingMessage,
    wanted: Requested,
    answer_of: Callable[[Told], Outcome],
    tell: Tell,
) -> Callable[[Collected | GatewayError], None]:
    def ack_of(told: Told) -> Ack:
        if isinstance(told, Ack):
            return told
        outcome = answer_of(told)
        if isinstance(outcome, GatewayError):
            return Ack.of_error(outcome)
        return _ack_of(outcome)

    def finished(collected: Collected | GatewayError) -> None:
        if isinstance(collected, GatewayError):
            tell(collected)
        elif not wanted.is_plain:
            tell(_aggregate(signal, wanted, collected, ack_of))
        elif LIVE_RESPONSE in collected:
            tell(answer_of(collected[LIVE_RESPONSE]))
        else:
            tell(command_timeout(wanted.timeout))

    return finished


def _ack_of(told: object) -> Ack:
    match told:
        case Ack():
            return told
        case ThingResult():
            return Ack.of_result(told)
        case ThingMessageResponse():
            return Ack.of_message(told)
    raise TypeError(f"{type(told).__name__} is no acknowledgement")


def _aggregate(
    signal: ThingCommand | ThingMessage,
    wanted: Requested,
    collected: Collected | GatewayError,
    ack_of: Callable[[Told], Ack],
) -> Acknowledgements | GatewayError:
    if isinstance(collected, GatewayError):
        return collected
    late = missed(wanted.timeout)
    correlation_id = signal.headers.get("correlation-id")
    acks = {
        label: (ack_of(collected[label]) if label in collected else late).under(correlation_id)
        for label in wanted.labels
    }
    channel = LIVE if isinstance(signal, ThingMessage) else signal.channel
    return Acknowledgements(
        signal.thing_id, channel, acks, signal.headers, wanted.response_required
    )


# --- devices' answers --------------------------------------------------------------------------


def _answers(command: ThingCommand, response: Response) -> bool:
    """An answer is of the command's kind and path; an error stands for any."""
    if response.topic.criterion == "errors":
        return True
    return response.topic.action == command.action.value and response.path == command.path


def _answers_message(answer: Answer) -> bool:
    return isinstance(answer, ThingMessageResponse) or answer.topic.criterion == "errors"


def _device_error(response: Response) -> GatewayError:
    """The error that a device answered with."""
    value: Json = response.value
    told = value if isinstance(value, dict) else {}
    text = told.get("description")
    return GatewayError(
        str(told.get("message", "The device answered with an error.")),
        code=str(told.get("error", "unknown")),
        status=response.status,
        description=text if isinstance(text, str) else None,
    )


def _accepted(message: ThingMessage) -> ThingMessageResponse:
    return ThingMessageResponse(
        thing_id=message.thing_id, correlation_id=message.correlation_id, status=202
    )
