"""The committed dashboards have Grafana's own type, as its package for TypeScript declares it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.process import tool

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dashboards").glob("*.json"))
SOURCES = ROOT / "tests" / "clients" / "grafana"
PACKAGES = ROOT / ".peers" / "grafana" / "schema" / "node_modules"


def complaints(folder: Path, boards: dict[str, Any]) -> list[str]:
    """What the compiler says of dashboards, each written as a constant of Grafana's type."""
    if not PACKAGES.exists():
        pytest.skip("NOT RUN: no types of Grafana (scripts/grafana-schema.sh)")
    for name in ("types.d.ts", "tsconfig.json", "package.json"):
        shutil.copy(SOURCES / name, folder)
    (folder / "node_modules").symlink_to(PACKAGES)
    for name, board in boards.items():
        text = f"export const board: Dashboard = {json.dumps(board, indent=1)};\n"
        (folder / f"{name}.ts").write_text(
            f'import type {{ Dashboard }} from "./types.js";\n{text}', encoding="utf-8"
        )
    compiler = PACKAGES / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [tool("node"), str(compiler), "-p", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in done.stdout.splitlines() if ": error " in line]


def test_every_dashboard_has_grafana_s_type(tmp_path: Path) -> None:
    boards = {file.stem: json.loads(file.read_text("utf-8")) for file in FILES}
    assert len(boards) >= 9
    assert complaints(tmp_path, boards) == []


def test_the_compiler_finds_what_is_no_dashboard(tmp_path: Path) -> None:
    board = json.loads(FILES[0].read_text("utf-8"))
    panel = board["panels"][1]
    wrong = {
        "width": {**panel, "gridPos": {**panel["gridPos"], "w": "8"}},
        "mode": {**panel, "fieldConfig": {"defaults": {"thresholds": {"mode": "x", "steps": []}}}},
        "titled": {**panel, "titel": "misspelt"},
    }
    boards = {name: {**board, "panels": [each]} for name, each in wrong.items()}
    found = complaints(tmp_path, boards)
    assert {line.partition("(")[0].rpartition("/")[2] for line in found} == {
        "width.ts",
        "mode.ts",
        "titled.ts",
    }
