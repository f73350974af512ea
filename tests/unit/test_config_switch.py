"""Settings that are `on`, `off` or another word."""

from __future__ import annotations

import pytest

from gateway.config.loading import load
from gateway.config.schema import json_schema, plain
from gateway.errors import InvalidSetting


@pytest.mark.parametrize(
    ("said", "meant"), [("on", "on"), ("off", "off"), ("auto", "auto"), ('"on"', "on")]
)
def test_on_and_off_are_words_whatever_yaml_reads(said: str, meant: str) -> None:
    settings = load(environ={}, sets=[f"edge.workloads.enabled={said}"])
    assert settings.edge.workloads.enabled == meant
    shown = plain(settings.edge.workloads)
    assert isinstance(shown, dict)
    assert type(shown["enabled"]) is str, "YAML can write it"


def test_a_number_is_no_word() -> None:
    with pytest.raises(InvalidSetting, match="expected on, off or another word, got 3"):
        load(environ={}, sets=["edge.workloads.enabled=3"])


def test_the_schema_knows_switches() -> None:
    assert json_schema()["type"] == "object"
