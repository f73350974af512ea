"""Writes the dashboards, or with `--check` says which files are not what the code makes."""

from __future__ import annotations

import sys
from pathlib import Path

from dashboards.source.boards import BOARDS
from dashboards.source.render import rendered

FOLDER = Path(__file__).parents[1]


def files() -> dict[Path, str]:
    """Return what the folder should hold."""
    return {FOLDER / f"{board.name}.json": rendered(board) for board in BOARDS}


def stale() -> list[str]:
    """Return the names of files that differ, are missing, or are nobody's."""
    wanted = files()
    differing = [
        file.name
        for file, text in wanted.items()
        if not file.exists() or file.read_text("utf-8") != text
    ]
    return differing + [file.name for file in FOLDER.glob("*.json") if file not in wanted]


def main() -> None:
    if "--check" in sys.argv:
        if found := stale():
            sys.exit(f"{', '.join(found)}: stale, run python -m dashboards.source")
        return
    for file, text in files().items():
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
