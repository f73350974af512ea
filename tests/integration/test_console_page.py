"""The console's files over HTTP, and that Ditto's paths stay Ditto's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from gateway.console.static import Asset, Assets, Page
from tests.ditto_rig import a_ditto

PAGE = Asset("text/html; charset=utf-8", '"page"', is_hashed=False, body=b"<!doctype html>page")
SCRIPT = Asset("text/javascript; charset=utf-8", '"js"', True, b"code", {"br": b"B", "gzip": b"G"})
ASSETS: Assets = {"index.html": PAGE, "assets/app-12345678.js": SCRIPT}


@asynccontextmanager
async def a_page(assets: Assets) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    async with (
        a_ditto(extra=Page(assets).routes()) as stack,
        aiohttp.ClientSession(auto_decompress=False) as http,
    ):
        yield stack.url, http


@pytest.mark.parametrize(
    "path", ["/", "/console", "/console/", "/console/things/a:b", "/console/x/y"]
)
async def test_the_page_s_own_paths_give_the_page(path: str) -> None:
    async with a_page(ASSETS) as (url, http), http.get(url + path) as response:
        assert (response.status, await response.read()) == (200, PAGE.body)
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("accepted", "coding", "body"),
    [
        ("br, gzip", "br", b"B"),
        ("gzip", "gzip", b"G"),
        ("br;q=0", None, b"code"),
        ("", None, b"code"),
    ],
)
async def test_files_come_compressed_where_the_build_and_the_reader_can(
    accepted: str, coding: str | None, body: bytes
) -> None:
    async with a_page(ASSETS) as (url, http):
        path = f"{url}/console/assets/app-12345678.js"
        async with http.get(path, headers={"Accept-Encoding": accepted}) as response:
            assert (response.status, await response.read()) == (200, body)
            assert response.headers.get("Content-Encoding") == coding
            assert "immutable" in response.headers["Cache-Control"]
            etag = response.headers["ETag"]
        again = {"Accept-Encoding": accepted, "If-None-Match": etag}
        async with http.get(path, headers=again) as response:
            assert (response.status, await response.read()) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/console/../../pyproject.toml",
        "/console/%2e%2e/%2e%2e/pyproject.toml",
        "/console/..%2f..%2fpyproject.toml",
        "/console/assets/../page.py",
        "/console/%00.js",
        "/console/page.py",
        "/console//etc/passwd.txt",
    ],
)
async def test_nothing_but_the_build_is_served(path: str) -> None:
    from yarl import URL

    async with a_page(ASSETS) as (url, http), http.get(URL(url + path, encoded=True)) as response:
        assert response.status in (400, 404) or await response.read() == PAGE.body
        assert b"import" not in await response.read()


async def test_without_a_build_the_page_says_so() -> None:
    async with a_page({}) as (url, http), http.get(url) as response:
        assert response.status == 503
        assert "not in this installation" in await response.text()


async def test_other_methods_and_paths_are_ditto_s() -> None:
    async with a_page(ASSETS) as (url, http):
        async with http.post(url) as response:
            assert (await response.json())["error"] == "signals.commands:path.unknown"
        async with http.get(f"{url}/other") as response:
            assert (await response.json())["error"] == "signals.commands:path.unknown"
        async with http.head(url) as response:
            assert response.status == 200
        async with http.get(f"{url}/api/2/things") as response:
            assert response.status == 401
