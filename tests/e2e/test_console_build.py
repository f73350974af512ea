"""The console's built files are what its sources give."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console_browser import browser
from tests.process import run

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def test_the_built_files_are_what_the_sources_and_the_lock_give() -> None:
    browser()
    said = run("bash", str(ROOT / "scripts/console.sh"), "--check", timeout=110)
    assert "bytes of script" in said
