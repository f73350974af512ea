"""Checks that CHANGELOG.md has an open Unreleased section and knows the version in pyproject.toml."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def problems() -> list[str]:
    """Return what is wrong, one sentence each."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    headings = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    found = []
    if not headings or headings[0] != "Unreleased":
        found.append("CHANGELOG.md: the first section must be '## [Unreleased]'")
    if ".dev" not in version and version not in headings:
        found.append(f"CHANGELOG.md: no section for version {version} of pyproject.toml")
    found += [
        f"CHANGELOG.md: does not say which {word} version is matched"
        for word in ("Ditto", "Hono", "KubeEdge", "Kubernetes")
        if word not in text
    ]
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems()) or None)
