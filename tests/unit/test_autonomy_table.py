"""Every row of docs/autonomy.md names tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "autonomy.md").read_text("utf-8")
ROWS = [
    line for line in TABLE.splitlines() if line.startswith("| ") and not line.endswith("proved |")
]
NAMED = re.compile(
    r"`((?:unit|integration|e2e|contract|scenarios)/[\w/]+\.(?:py|txt))(?:::(\w+))?`"
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip(" *"))
def test_a_row_names_tests_that_exist(row: str) -> None:
    named = NAMED.findall(row.rsplit("|", 2)[1])
    assert named, "no test is named"
    for file, test in named:
        text = (ROOT / "tests" / file).read_text("utf-8")
        assert not test or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), test


def test_there_are_rows() -> None:
    assert len(ROWS) > 30
