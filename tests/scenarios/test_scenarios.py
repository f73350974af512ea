"""Plays the scripts beside this file against both cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios import script
from tests.scenarios.script import Player
from tests.scenarios.stack import a_stack

SCRIPTS = {
    path.stem: path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.txt"))
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_scenario(name: str, tmp_path: Path) -> None:
    text = SCRIPTS[name]
    async with a_stack(tmp_path) as stack:
        wrong = await Player(stack).play(text)
    assert wrong == ""


async def test_a_step_that_goes_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PATIENCE", 0.1)
    async with a_stack(tmp_path) as stack:
        wrong = await Player(stack).play("# a comment\nGET /things/default:none -> 200 {}\n")
    assert wrong.startswith("line 2: GET /things/default:none: '404 things:thing.notfound'")


def test_there_are_scenarios() -> None:
    assert len(SCRIPTS) >= 6
