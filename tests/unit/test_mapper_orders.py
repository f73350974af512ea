"""What can be ordered of mappers: listed without one, and true of each."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.mappers.family import FAMILIES, TakesOrders
from edge.mappers.orders import ORDERS, described, orders_of
from gateway.cli.edge import edge as edge_command
from gateway.errors import NotFound
from tests.family_rig import World

PLAIN = ("modbus", "opcua", "coap", "http", "edgex", "bluetooth")
"""Families that are made without hardware."""


def shown(*words: str) -> str:
    done = CliRunner().invoke(edge_command, ["order", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_orders_of_a_protocol_are_listed_with_their_keys() -> None:
    said = shown("modbus")
    assert "modbus scan" in said
    assert "units\n        numbers such as 1-10,20; default 1-247" in said
    assert "twinspan edge order modbus scan ip=192.0.2.10 units=1-10" in said
    assert "zigbee" not in said


def test_without_a_protocol_all_orders_are_listed() -> None:
    said = shown()
    assert [line for line in said.splitlines() if line and not line.startswith(" ")] == [
        f"{protocol} {order.name}" for protocol, orders in ORDERS.items() for order in orders
    ]


def test_a_protocol_without_orders_says_so() -> None:
    assert shown("http") == "http takes no orders.\n"


def test_an_unknown_protocol_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(NotFound, match="modbus, opcua"):
        described("profibus")


def test_names_of_one_family_have_the_same_orders() -> None:
    assert orders_of("ble") == orders_of("bluetooth")
    assert {FAMILIES[name] for name in ORDERS} == set(FAMILIES.values())


@pytest.mark.parametrize("protocol", PLAIN)
def test_what_is_listed_is_what_the_family_takes(protocol: str, tmp_path: Path) -> None:
    module, _, maker = FAMILIES[protocol].partition(":")
    family = getattr(importlib.import_module(module), maker)(World(tmp_path).around)
    taken = family.orders() if isinstance(family, TakesOrders) else ()
    assert [order.name for order in orders_of(protocol)] == list(taken)
