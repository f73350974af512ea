"""Container images made on the spot, and a registry on loopback that serves them.

`Registry` answers from a thread of its own, so tests of any kind can use it. Names below `private/` ask for
the credentials `USER` and `PASSWORD`. Source: OCI image spec 1.0, distribution spec 1.0.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from aiohttp import web

USER, PASSWORD = "puller", "s3cret"
PRIVATE = "private/"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_PAUSE_CODE = bytes.fromhex(
    "6a006a006a006a01"  # struct sigaction{SIG_IGN}: children that nobody waits for leave no zombies
    "4889e631d26a115f6a08415a6a0d580f05"  # rt_sigaction(SIGCHLD, rsp, 0, 8)
    "6a22580f05ebf9"  # for (;;) pause();
)


@dataclass(frozen=True, slots=True)
class File:
    """A file of an image; with `link` a symbolic link, with neither a folder."""

    path: str
    data: bytes | None = None
    link: str = ""
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class OciImage:
    """An image of one layer: digest -> blob, and the manifest."""

    blobs: Mapping[str, bytes]
    manifest: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_image(files: Iterable[File], config: Mapping[str, object]) -> OciImage:
    """Make an image; `config` is the OCI config's (`Entrypoint`, `Cmd`, `User`, `Env`, `WorkingDir`)."""
    tar = _tar(files)
    layer = gzip.compress(tar, 1, mtime=0)
    settings = _json(
        {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, settings),
            "layers": [_descriptor(LAYER, layer)],
        }
    )
    return OciImage({digest_of(each): each for each in (layer, settings)}, manifest)


def _tar(files: Iterable[File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path)
            entry.mode = file.mode
            entry.type = tarfile.REGTYPE if file.data is not None else tarfile.DIRTYPE
            if file.link:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.link
            entry.size = len(file.data or b"")
            tar.addfile(entry, io.BytesIO(file.data or b""))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": digest_of(data)}


# --- the images -------------------------------------------------------------------------------------


def pause_program() -> bytes:
    """Return a static program for x86-64 that sleeps for ever and leaves no zombies."""
    base, start = 0x400000, 64 + 56
    size = start + len(_PAUSE_CODE)
    header = (
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        + b"".join(n.to_bytes(2, "little") for n in (2, 62))
        + (1).to_bytes(4, "little")
        + b"".join(n.to_bytes(8, "little") for n in (base + start, 64, 0))
        + bytes(4)
        + b"".join(n.to_bytes(2, "little") for n in (64, 56, 1, 64, 0, 0))
    )
    segment = b"".join(n.to_bytes(4, "little") for n in (1, 5)) + b"".join(
        n.to_bytes(8, "little") for n in (0, base, base, size, size, 0x1000)
    )
    return header + segment + _PAUSE_CODE


@cache
def pause() -> OciImage:
    if platform.machine() != "x86_64":
        return make_image(_busybox_files(), {"Entrypoint": ["/bin/sleep", "2147483647"]})
    return make_image([File("pause", pause_program())], {"Entrypoint": ["/pause"]})


def busybox_path() -> Path | None:
    """Return where the statically linked busybox is on this machine."""
    found = [Path(each) for each in ("/usr/bin/busybox", "/bin/busybox")]
    return next((each for each in found if each.exists()), None)


@cache
def _busybox_files() -> tuple[File, ...]:
    path = busybox_path()
    assert path is not None, "busybox-static is not installed"
    applets = subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout
    folders = [File(each) for each in ("bin", "etc", "root", "home", "var", "data", "usr")]
    return (
        *folders,
        File("tmp", mode=0o1777),
        File("bin/busybox", path.read_bytes()),
        *(File(f"bin/{name}", link="busybox") for name in applets.split() if name != "busybox"),
        File(
            "etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1234:1234::/home:/bin/sh\n", mode=0o644
        ),
        File("etc/group", b"root:x:0:\napp:x:1234:\nextra:x:4321:app\n", mode=0o644),
    )


PATH_ENV = "PATH=/bin"


def busybox(*, extra: bytes = b"", **config: object) -> OciImage:
    """Return an image with all applets of busybox; `config` as for `make_image`, `extra` makes it larger."""
    more = [File("extra", extra)] if extra else []
    return make_image([*_busybox_files(), *more], {"Env": [PATH_ENV], "Cmd": ["sh"], **config})


def filler(name: str, size: int) -> OciImage:
    """Return an image of its own content that does not shrink when packed."""
    return make_image([File(f"data-{name}", os.urandom(size), mode=0o644)], {"Cmd": ["/none"]})


def standard_images() -> dict[str, OciImage]:
    """Return the images every rig's registry has: `name:tag` -> image."""
    plain = busybox()
    return {
        "pause:1": pause(),
        "busybox:1": plain,
        "busybox:latest": plain,
        "busybox-user:1": busybox(User="1234"),
        "busybox-named-user:1": busybox(User="app"),
        "busybox-entry:1": busybox(Entrypoint=["/bin/echo", "entrypoint"], Cmd=["default"]),
        "busybox-env:1": busybox(Env=[PATH_ENV, "FROM_IMAGE=yes"], WorkingDir="/data"),
        "busybox-web:1": busybox(Entrypoint=["/bin/httpd", "-f", "-p", "8080", "-h", "/data"]),
        "broken:1": busybox(Entrypoint=["/no/such/program"]),
        f"{PRIVATE}busybox:1": busybox(Labels={"for": "those who may"}),
    }


# --- the registry -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Registry:
    """A read-only registry. What is set here counts from the next request; used from other threads."""

    images: dict[str, OciImage] = field(default_factory=standard_images)
    failing: dict[str, int] = field(default_factory=dict)
    """Repository -> HTTP status of every answer about it."""
    held: dict[str, threading.Event] = field(default_factory=dict)
    """Repository -> its blobs stop half way until this is set."""
    pulls: list[str] = field(default_factory=list)
    """`repository:reference` of every manifest that was handed out."""
    logins: list[str] = field(default_factory=list)
    """Users that asked for private images, right or wrong."""
    port: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def name(self, image: str) -> str:
        """Return the full name of an image of this registry, `busybox` meaning `busybox:1`."""
        tagged = image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:1"
        return f"{self.host}/{tagged}"

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v2/", self._root)
        app.router.add_get("/v2/{repository:.+}/manifests/{reference}", self._manifest)
        app.router.add_get("/v2/{repository:.+}/blobs/{digest}", self._blob)
        return app

    async def _root(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    async def _manifest(self, request: web.Request) -> web.Response:
        repository, reference = self._admit(request), request.match_info["reference"]
        found = self._find(repository, reference)
        if request.method == "GET":
            self.pulls.append(f"{repository}:{reference}")
        headers = {"Docker-Content-Digest": found.digest, "Content-Type": MANIFEST}
        return web.Response(body=found.manifest, headers=headers)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        repository, digest = self._admit(request), request.match_info["digest"]
        blobs = [i.blobs for n, i in self.images.items() if n.rpartition(":")[0] == repository]
        data = next((each[digest] for each in blobs if digest in each), None)
        if data is None:
            raise _problem(404, "BLOB_UNKNOWN", "blob unknown to registry")
        gate = self.held.get(repository)
        if gate is None or request.method == "HEAD":
            return web.Response(body=data, headers={"Docker-Content-Digest": digest})
        return await self._slowly(request, data, gate)

    @staticmethod
    async def _slowly(
        request: web.Request, data: bytes, gate: threading.Event
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        await asyncio.to_thread(gate.wait, 60)
        await response.write(data[len(data) // 2 :])
        return response

    def _admit(self, request: web.Request) -> str:
        """Return the repository. Errors: what this registry was told to fail with; wrong credentials."""
        repository = request.match_info["repository"]
        if status := self.failing.get(repository):
            raise _problem(status, "UNAVAILABLE", "this registry was told to fail")
        if repository.startswith(PRIVATE):
            given = request.headers.get("Authorization", "")
            self.logins.extend([_user_of(given)] if given else [])
            wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if given != f"Basic {wanted}":
                raise _problem(401, "UNAUTHORIZED", "authentication required", _CHALLENGE)
        return repository

    def _find(self, repository: str, reference: str) -> OciImage:
        found = self.images.get(f"{repository}:{reference}")
        for name, image in self.images.items():
            if name.rpartition(":")[0] == repository and image.digest == reference:
                found = image
        if found is None:
            raise _problem(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return found


_CHALLENGE = {"WWW-Authenticate": 'Basic realm="registry"'}


def _user_of(header: str) -> str:
    scheme, _, value = header.partition(" ")
    return base64.b64decode(value).decode().partition(":")[0] if scheme == "Basic" else header


def _problem(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {
        401: web.HTTPUnauthorized,
        403: web.HTTPForbidden,
        404: web.HTTPNotFound,
        429: web.HTTPTooManyRequests,
        500: web.HTTPInternalServerError,
        503: web.HTTPServiceUnavailable,
    }
    body = json.dumps({"errors": [{"code": code, "message": message}]})
    return kinds[status](text=body, headers=headers, content_type="application/json")


@contextmanager
def serving(registry: Registry | None = None) -> Iterator[Registry]:
    """Serve a registry on loopback from its own thread for the length of the block."""
    served = Registry() if registry is None else registry
    loop, up = asyncio.new_event_loop(), threading.Event()
    failures: list[BaseException] = []
    thread = threading.Thread(target=_serve, args=(served, loop, up, failures), daemon=True)
    thread.start()
    up.wait(20)
    assert not failures, failures
    try:
        yield served
    finally:
        for gate in served.held.values():
            gate.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


def _serve(
    registry: Registry,
    loop: asyncio.AbstractEventLoop,
    up: threading.Event,
    failures: list[BaseException],
) -> None:
    asyncio.set_event_loop(loop)
    runner = web.AppRunner(registry.app(), shutdown_timeout=0.5)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", registry.port)
        await site.start()
        registry.port = runner.addresses[0][1]

    try:
        loop.run_until_complete(start())
    except OSError as error:
        failures.append(error)
        return
    finally:
        up.set()
    loop.run_forever()
    loop.run_until_complete(runner.cleanup())
