"""The registry's TLS listener, with curl that verifies the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config.hono import Registry as Settings
from gateway.hono.registry_http import RegistryHttp, RegistryServer
from gateway.runtime.certificates import ensure_server, server_context
from gateway.runtime.listener import PortTaken
from gateway.runtime.module import running
from tests.hono_rig import ADMIN, FREE, Core, a_core, curl

LOGIN = ":".join(ADMIN)


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        yield core


def module(core: Core, folder: Path, tls_bind: str = FREE) -> RegistryHttp:
    """The API with both of its listeners."""
    settings = Settings(bind=FREE, tls_bind=tls_bind)
    server = RegistryServer(core.registry, settings, dict([ADMIN]), core.metrics, core.tracer)
    files = ensure_server(folder, "test authority", "registry", ["127.0.0.1"])
    context = server_context(*files, "hono.tls.certificate")
    return RegistryHttp(server, settings, core.endpoints, context)


async def test_the_same_api_is_served_with_and_without_tls(core: Core, tmp_path: Path) -> None:
    authority = ("--cacert", str(tmp_path / "ca.crt"))
    async with running(module(core, tmp_path)):
        secure = f"https://{core.endpoints.get('hono.registrys')}/v1/tenants/T"
        assert (await curl(*authority, "-u", LOGIN, "-X", "POST", secure))[0] == 201
        assert (await curl(*authority, "-u", LOGIN, secure))[0] == 200
        assert (await curl("-u", LOGIN, f"{core.url('hono.registry')}/v1/tenants/T"))[0] == 200


async def test_tls_opens_nothing_without_a_password(core: Core, tmp_path: Path) -> None:
    authority = ("--cacert", str(tmp_path / "ca.crt"))
    async with running(module(core, tmp_path)):
        secure = f"https://{core.endpoints.get('hono.registrys')}/v1/tenants/T"
        assert (await curl(*authority, secure))[0] == 401
        assert (await curl(*authority, "-u", f"{ADMIN[0]}:wrong", secure))[0] == 401


async def test_a_client_that_does_not_know_the_authority_is_told_nothing(
    core: Core, tmp_path: Path
) -> None:
    async with running(module(core, tmp_path)):
        secure = f"https://{core.endpoints.get('hono.registrys')}/v1/tenants/T"
        assert await curl("-u", LOGIN, secure) == (0, "")


async def test_a_taken_tls_port_names_its_setting(core: Core, tmp_path: Path) -> None:
    async with running(module(core, tmp_path / "one")):
        taken = core.endpoints.get("hono.registrys")
        with pytest.raises(ExceptionGroup) as caught:
            async with running(module(core, tmp_path / "two", taken)):
                pass
        assert caught.group_contains(PortTaken, match=r"hono\.registry\.tls_bind")
