"""The page's files, out of the package: read once, told by ETag, compressed where the build has done so.

A file is found in a table of what is there; a path from outside opens nothing.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from aiohttp import hdrs, web

from gateway.console.guard import HEADERS, RawHandler

PACKAGE: Final = "gateway.console"
FOLDER: Final = "web"
INDEX: Final = "index.html"
ENCODINGS: Final = {"br": ".br", "gzip": ".gz"}
IMMUTABLE: Final = "public, max-age=31536000, immutable"
REVALIDATE: Final = "no-cache"
_HASHED: Final = re.compile(r".*[.-](?=[A-Za-z0-9_]*[A-Z0-9])[A-Za-z0-9_]{8,64}\.[a-z0-9]+")
MAX_FILES: Final = 500
MAX_FILE: Final = 4_194_304
_TYPES: Final = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".txt": "text/plain",
}

NOT_BUILT: Final = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Twinspan</title>
<h1>The console is not in this installation</h1>
<p>Its built files are missing from <code>gateway/console/web</code>. In a source tree:
<code>cd console &amp;&amp; npm ci &amp;&amp; npm run build</code>. The APIs of this port work without it.</p>
</html>
"""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. Shape: `variants` are its compressed forms by content coding."""

    content_type: str
    etag: str
    is_hashed: bool
    body: bytes
    variants: dict[str, bytes] = field(default_factory=dict)


Assets = dict[str, Asset]


def read_assets(root: Traversable | None = None) -> Assets:
    """Read all files of the build: path below its folder -> file; empty where there is no build."""
    root = root or resources.files(PACKAGE).joinpath(FOLDER)
    if not root.is_dir():
        return {}
    raw: dict[str, bytes] = {}
    _collect(root, "", raw)
    plain = {path: body for path, body in raw.items() if not path.endswith((".br", ".gz"))}
    return {path: _asset(path, body, raw) for path, body in plain.items()}


def _collect(folder: Traversable, prefix: str, found: dict[str, bytes]) -> None:
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            _collect(entry, f"{path}/", found)
        elif len(found) < MAX_FILES and not entry.name.endswith((".py", ".map")):
            body = entry.read_bytes()
            if len(body) <= MAX_FILE:
                found[path] = body


def _asset(path: str, body: bytes, raw: dict[str, bytes]) -> Asset:
    suffix = "." + path.rpartition(".")[2]
    kind = _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    if kind.startswith("text/") or kind == "application/json":
        kind += "; charset=utf-8"
    variants = {
        coding: raw[path + ending] for coding, ending in ENCODINGS.items() if path + ending in raw
    }
    digest = hashlib.sha256(body).hexdigest()[:32]
    is_hashed = _HASHED.fullmatch(path) is not None and suffix != ".html"
    return Asset(kind, f'"{digest}"', is_hashed, body, variants)


class Page:
    """Serves the files; a path of the page itself, which its script reads, gives the page."""

    def __init__(self, assets: Assets | None = None) -> None:
        self._assets = assets

    @property
    def assets(self) -> Assets:
        if self._assets is None:
            self._assets = read_assets()
        return self._assets

    def routes(self) -> list[web.RouteDef]:
        """Routes for reading alone; other methods are what they were without the page."""
        paths = ("/", "/console", "/console/{path:(?s:.*)}")
        handler: RawHandler = self.serve
        return [web.route(m, path, handler) for m in ("GET", "HEAD") for path in paths]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file or the page; 404 for a file that is not there, 503 without a build."""
        path = request.match_info.get("path", "")
        asset = self.assets.get(path)
        if asset is None and _names_a_file(path):
            return _finish(web.Response(status=404, text="no such file"), NO_CACHE)
        asset = asset or self.assets.get(INDEX)
        if asset is None:
            page = web.Response(status=503, body=NOT_BUILT, content_type="text/html")
            return _finish(page, NO_CACHE)
        return _finish(_send(request, asset), IMMUTABLE if asset.is_hashed else REVALIDATE)


NO_CACHE: Final = "no-store"


def _names_a_file(path: str) -> bool:
    """True below the build's folder and for `favicon.ico`; `things/org.acme:4711` is a place in the page."""
    folder, _, name = path.rpartition("/")
    return folder == "assets" or (folder == "" and "." in name)


def _send(request: web.Request, asset: Asset) -> web.Response:
    coding = _coding(request.headers.get(hdrs.ACCEPT_ENCODING, ""), asset)
    etag = asset.etag if not coding else f'{asset.etag[:-1]}-{coding}"'
    headers = {hdrs.ETAG: etag, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if etag in request.headers.get(hdrs.IF_NONE_MATCH, "")[:1_000]:
        return web.Response(status=304, headers=headers)
    if coding:
        headers[hdrs.CONTENT_ENCODING] = coding
    headers[hdrs.CONTENT_TYPE] = asset.content_type
    return web.Response(body=asset.variants.get(coding, asset.body), headers=headers)


def _coding(accepted: str, asset: Asset) -> str:
    """The first of our compressed forms that the reader takes, "" for none."""
    refused = re.compile(r"q=0(?:\.0{0,3})?\s*$")
    taken = {
        part.partition(";")[0].strip().lower()
        for part in accepted[:1_000].split(",")
        if not refused.search(part)
    }
    return next((each for each in ENCODINGS if each in taken and each in asset.variants), "")


def _finish(response: web.Response, cache: str) -> web.Response:
    response.headers.update(HEADERS)
    response.headers[hdrs.CACHE_CONTROL] = cache
    return response
