"""The console's colours and built files: contrast as WCAG reckons it, nothing missing, nothing too large."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STYLE = (ROOT / "console/src/style/base.css").read_text()
WEB = ROOT / "gateway/console/web"
TEXT, LARGE = 4.5, 3.0
PAIRS = [
    *((ink, ground, TEXT) for ink in ("text", "muted") for ground in ("bg", "surface", "raised")),
    *((ink, "surface", TEXT) for ink in ("accent", "ok", "warn", "bad", "idle", "info")),
    *((ink, "bg", TEXT) for ink in ("accent", "warn", "bad", "idle")),
    *((ink, "tint", TEXT) for ink in ("text", "accent")),
    ("on-accent", "accent", TEXT),
    ("text", "lit", TEXT),
    ("edge", "surface", LARGE),
    ("edge", "bg", LARGE),
    *((f"line-{nth}", "surface", LARGE) for nth in range(8)),
]
THEMES = {"light": ":root {", "dark": ':root[data-theme="dark"] {'}


def colours(opening: str) -> dict[str, str]:
    """The custom properties of the rule that opens so."""
    body = STYLE.split(f"\n{opening}", 1)[1].split("}", 1)[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", body))


def luminance(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", list(THEMES))
def test_all_pairs_of_colours_have_the_contrast_of_wcag_aa(theme: str) -> None:
    found = colours(THEMES[theme])
    weak = {
        f"{ink} on {ground}": round(contrast(found[ink], found[ground]), 2)
        for ink, ground, least in PAIRS
        if contrast(found[ink], found[ground]) < least
    }
    assert weak == {}


def test_the_dark_theme_is_the_same_by_choice_and_by_the_system() -> None:
    by_system = STYLE.split("@media (prefers-color-scheme: dark)", 1)[1].split("}", 1)[0]
    chosen = colours(THEMES["dark"])
    assert dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", by_system)) == chosen
    assert set(chosen) == set(colours(THEMES["light"]))


def test_the_page_names_only_files_that_are_there_and_none_of_elsewhere() -> None:
    page = (WEB / "index.html").read_text()
    named = re.findall(r'(?:src|href)="/console/([^"]+)"', page)
    assert len(named) == 4
    assert [name for name in named if not (WEB / name).is_file()] == []
    assert "http:" not in page
    assert "https:" not in page
    assert re.search(r"<style|style=|<script>|onload=", page) is None


def test_what_is_loaded_first_is_small() -> None:
    script = next(WEB.glob("assets/app-*.js"))
    assert script.stat().st_size < 150_000
    assert (WEB / "assets" / f"{script.name}.gz").stat().st_size < 50_000


def test_compressed_files_hold_what_the_plain_ones_do() -> None:
    packed = sorted(WEB.rglob("*.gz"))
    assert packed
    for path in packed:
        assert gzip.decompress(path.read_bytes()) == path.with_suffix("").read_bytes(), path
