"""Alert rules: promtool runs their tests; each alert fires and stays quiet in one, and has a runbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from dashboards.source.boards import BOARDS
from gateway.cli.main import root
from tests.process import run, tool
from tests.promql import asked
from tests.unit.test_dashboards import KNOWN, TARGET

ROOT = Path(__file__).parents[2]
RULES = ROOT / "dashboards" / "rules"
BOOKS = ROOT / "docs" / "runbooks"
FILES = sorted(RULES.glob("*.yaml"))
TESTS = sorted((RULES / "tests").glob("*.yaml"))
HEADINGS = ["Meaning", "Impact", "Diagnose", "Mend"]


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text("utf-8"))


def rules() -> Iterator[dict[str, Any]]:
    for file in FILES:
        for group in load(file)["groups"]:
            yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def test_promtool_takes_the_rules() -> None:
    said = run(tool("promtool"), "check", "rules", *map(str, FILES))
    assert said.count("SUCCESS") == len(FILES)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_promtool_s_tests_of_the_rules_pass(file: Path) -> None:
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", str(file))


def outcomes() -> dict[str, list[int]]:
    """For each alert, how many alerts each of its tests expects."""
    found: dict[str, list[int]] = {}
    for file in TESTS:
        for test in load(file)["tests"]:
            for case in test["alert_rule_test"]:
                found.setdefault(case["alertname"], []).append(len(case["exp_alerts"]))
    return found


def test_every_alert_fires_in_one_test_and_stays_quiet_in_another() -> None:
    found = outcomes()
    assert found.keys() == ALERTS.keys()
    for name, numbers in found.items():
        assert 0 in numbers, f"{name} is never quiet"
        assert max(numbers) > 0, f"{name} never fires"


def test_tests_of_one_alert_bring_no_other_rule_s_name() -> None:
    names = [rule["alert"] for rule in rules() if "alert" in rule]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"Twinspan[A-Z][A-Za-z]+", name) for name in names)


def test_every_alert_says_how_bad_what_and_where_to_read_on() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"}, name
        assert notes["runbook_url"] == f"docs/runbooks/{name}.md"
        assert len(notes["summary"]) < 120, name


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    books = {file.stem: file.read_text("utf-8") for file in BOOKS.glob("*.md")}
    assert books.keys() == ALERTS.keys()
    for name, text in books.items():
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS, name
        assert text.startswith(f"# {name}\n")
        (shown,) = re.findall(r"```promql\n(.*?)\n```", text, re.DOTALL)
        assert shown.split() == ALERTS[name]["expr"].split(), f"{name} shows another expression"
        others = set(re.findall(r"\bTwinspan[A-Z]\w+", text))
        assert others <= ALERTS.keys(), f"{name} names {others - ALERTS.keys()}"


def test_commands_in_runbooks_are_commands() -> None:
    for file in BOOKS.glob("*.md"):
        for words in re.findall(r"`twinspan ([a-z -]*[a-z])", file.read_text("utf-8")):
            at: click.Command | None = root
            for word in words.split():
                if word.startswith("-") or not isinstance(at, click.Group):
                    break
                at = at.get_command(click.Context(at), word)
            assert at is not None, f"{file.name}: twinspan {words}"


def test_dashboards_in_runbooks_are_dashboards() -> None:
    titles = {board.title.removeprefix("Twinspan / ") for board in BOARDS}
    for file in BOOKS.glob("*.md"):
        for words in re.findall(r"[Dd]ashboard ([A-Z][\w& ]*)", file.read_text("utf-8")):
            assert any(words.startswith(title) for title in titles), f"{file.name}: {words}"


def test_rules_ask_for_what_is_exported() -> None:
    for rule in rules():
        for selector in asked(rule["expr"]).selectors:
            assert selector.metric in KNOWN or selector.metric in RECORDED, rule
            if selector.metric in KNOWN:
                labels = {label for label, _, _ in selector.matchers}
                assert labels <= KNOWN[selector.metric] | TARGET, rule


def test_every_recorded_series_is_used() -> None:
    asked_for = {s.metric for rule in ALERTS.values() for s in asked(rule["expr"]).selectors}
    assert RECORDED.keys() <= asked_for
