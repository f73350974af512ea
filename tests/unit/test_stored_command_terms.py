"""Whether a command is kept for a device that is away, by what tenant, device and service say."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.hono import StoredCommands as Settings
from gateway.hono.stored_command_terms import Terms, terms_of
from gateway.model.registry import Assertion, Device, Tenant

SETTINGS = Settings(max_ttl=1_000.0, max_per_device=100)
NOTHING = object()


def _document(said: Any) -> dict[str, Any]:
    return {} if said is NOTHING else {"ext": {"stored-commands": said}}


def terms(
    tenant: Any = NOTHING,
    device: Any = NOTHING,
    ttl: float | None = None,
    settings: Settings = SETTINGS,
) -> Terms | None:
    found = Assertion(
        Tenant(tenant_id="acme", document=_document(tenant)),
        Device(tenant_id="acme", device_id="d1", document=_document(device)),
    )
    return terms_of(settings, found, ttl)


@pytest.mark.parametrize("said", [NOTHING, False, None, "yes", 1, []])
def test_nothing_is_kept_unless_somebody_asks_for_it(said: Any) -> None:
    assert terms(said, ttl=60) is None
    assert terms(NOTHING, said, ttl=60) is None


@pytest.mark.parametrize("said", [True, {}])
def test_a_command_without_time_to_live_is_kept_only_where_there_is_a_default(said: Any) -> None:
    assert terms(said) is None
    assert terms(said, ttl=60) == Terms(60, 100)
    assert terms({"ttl": 30}) == Terms(30, 100)
    assert terms({"ttl": 30}, ttl=60) == Terms(60, 100)


def test_what_the_device_says_wins_member_by_member() -> None:
    tenant = {"ttl": 30, "max-ttl": 50}
    assert terms(tenant, {"ttl": 40}) == Terms(40, 100)
    assert terms(tenant, {"max-ttl": 20}) == Terms(20, 100)
    assert terms(tenant, True) == Terms(30, 100)
    assert terms(tenant, False, ttl=10) is None
    assert terms(False, {"ttl": 40}) == Terms(40, 100)


@pytest.mark.parametrize(
    ("said", "ttl", "expected"),
    [
        ({"ttl": 5_000}, None, Terms(1_000, 100)),
        ({"max-ttl": 20}, 60, Terms(20, 100)),
        ({"max-per-device": 3}, 60, Terms(60, 3)),
        ({"max-per-device": 3_000}, 60, Terms(60, 100)),
        ({"max-per-device": 0.5}, 60, None),
        ({"max-per-device": -1, "max-ttl": "x"}, 60, Terms(60, 100)),
        ({"ttl": True}, None, None),
        ({"ttl": -1}, None, None),
        ({}, 0, None),
    ],
)
def test_all_is_bounded_and_what_is_no_number_says_nothing(
    said: Any, ttl: float | None, expected: Terms | None
) -> None:
    assert terms(said, ttl=ttl) == expected


def test_the_service_may_keep_nothing_at_all() -> None:
    assert terms({"ttl": 60}, settings=Settings(max_ttl=0)) is None
