"""Offsets and verdicts: what may be committed, and what applications are told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    CommandTimeout,
    ConsumerTimeout,
    DeviceNotFound,
    GatewayError,
    NoConsumer,
    NotProcessed,
    QuotaExceeded,
    Rejected,
    StoreUnavailable,
)
from gateway.hono.kafka_offsets import Offsets
from gateway.hono.kafka_verdicts import verdict_of

P = ("hono.command.acme", 0)


def test_an_offset_is_committed_when_all_before_it_have_their_outcome() -> None:
    offsets = Offsets()
    first, second, third = (offsets.begin(P, at) for at in (5, 6, 9))
    assert offsets.end(second) is None
    assert offsets.under_way([P]) == 3
    assert offsets.end(first) == 7
    assert offsets.end(third) == 10
    assert offsets.under_way([P]) == 0


def test_partitions_do_not_wait_for_each_other() -> None:
    offsets = Offsets()
    offsets.begin(P, 1)
    assert offsets.end(offsets.begin(("hono.command.acme", 1), 8)) == 9


def test_what_ends_after_its_partition_was_taken_away_commits_nothing() -> None:
    offsets = Offsets()
    late = offsets.begin(P, 1)
    offsets.forget([P])
    assert offsets.end(late) is None
    again = offsets.begin(P, 1)
    assert offsets.end(late) is None
    assert offsets.end(again) == 2


@given(st.permutations(range(8)))
def test_whatever_the_order_the_last_outcome_commits_everything(order: list[int]) -> None:
    offsets = Offsets()
    tickets = [offsets.begin(P, at) for at in range(8)]
    done: set[int] = set()
    committed = 0
    for at in order:
        done.add(at)
        found = offsets.end(tickets[at])
        if found is not None:
            assert found > committed
            committed = found
        assert set(range(committed)) <= done
    assert committed == 8


@pytest.mark.parametrize(
    ("error", "name", "status", "text"),
    [
        (None, "accepted", 0, ""),
        (NoConsumer(), "released", 503, "no consumer available"),
        (ConsumerTimeout(), "released", 503, ConsumerTimeout.default_message),
        (StoreUnavailable(), "released", 503, "Temporarily unavailable"),
        (NotProcessed("no PUBACK"), "released", 503, "no PUBACK"),
        (GatewayError("a bug with details"), "released", 500, "Internal server error"),
        (CommandTimeout(), "released", 503, "Internal server error"),
        (Rejected("the device said no"), "rejected", 400, "the device said no"),
        (DeviceNotFound(), "rejected", 404, "device is disabled or not registered"),
        (QuotaExceeded(), "rejected", 429, QuotaExceeded.default_message),
        (
            NotProcessed(details={"delivery_failed": True, "undeliverable_here": False}),
            "modified",
            503,
            "command not processed; delivery failed",
        ),
        (
            NotProcessed(details={"delivery_failed": True, "undeliverable_here": True}),
            "modified",
            404,
            "command not processed; delivery failed; undeliverable here",
        ),
        (
            NotProcessed(details={"delivery_failed": False}),
            "modified",
            503,
            "command not processed",
        ),
    ],
)
def test_a_verdict_has_honos_status_and_text(error: Any, name: str, status: int, text: str) -> None:
    verdict = verdict_of(error)
    assert (verdict.name, verdict.status, verdict.text) == (name, status, text)
