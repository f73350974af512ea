"""A device's answer belongs to its command's trace."""

from __future__ import annotations

from gateway.hono.asked_traces import AskedTraces
from gateway.model.message import Command, CommandResponse
from gateway.observe.tracing import new_context


def command(correlation: str, reply_to: str | None = "command_response/t/r") -> Command:
    return Command(
        tenant="t",
        device="d",
        name="blink",
        payload=b"",
        correlation_id=correlation,
        reply_to=reply_to,
    )


def answer(correlation: str) -> CommandResponse:
    return CommandResponse(
        tenant="t", device="d", reply_id="r", correlation_id=correlation, status=200
    )


def test_an_answer_belongs_to_its_command_once() -> None:
    traces, trace = AskedTraces(), new_context()
    traces.note(command("c"), trace)
    assert traces.of(answer("other")) is None
    assert traces.of(answer("c")) == trace
    assert traces.of(answer("c")) is None


def test_commands_that_want_no_answer_are_not_kept() -> None:
    traces = AskedTraces()
    traces.note(command("c", None), new_context())
    assert traces.of(answer("c")) is None


def test_the_oldest_are_forgotten() -> None:
    traces = AskedTraces(most=2)
    for name in ("a", "b", "c"):
        traces.note(command(name), new_context())
    assert traces.of(answer("a")) is None
    assert traces.of(answer("b")) is not None
