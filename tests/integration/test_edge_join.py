"""Joining against a cloud over real TLS: the happy path and every explained failure."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edge.join
from edge.identity import Identity
from edge.join import Check, JoinFailed, JoinRequest, join
from gateway.errors import InvalidSetting
from tests.integration.edge_cloud import Authority, FakeCloud, a_cloud


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as running:
        yield running


def a_request(fake: FakeCloud, **changes: Any) -> JoinRequest:
    facts: dict[str, Any] = {
        "cloud": f"https://{fake.https}",
        "token": fake.authority.token(),
        "node": "edge-1",
        "hub": fake.hub,
    }
    return JoinRequest(**{**facts, **changes})


async def test_a_token_gives_a_certificate_that_opens_the_hub(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    identity = Identity(tmp_path / "edge-data")
    steps: list[Check] = []
    settings = await asyncio.to_thread(join, a_request(cloud), identity, steps.append)
    assert settings == identity.load()
    assert (settings.node, settings.server) == ("edge-1", cloud.hub)
    assert stat.S_IMODE(identity.key.stat().st_mode) == 0o600
    assert [step.name for step in steps] == [
        "node name",
        "cloud reachable",
        "clock",
        "CA",
        "node name in use",
        "hub reachable",
        "certificate",
        "saved",
    ]
    host, _, port = cloud.hub.partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=identity.client_context())
    subject = writer.get_extra_info("peercert")["subject"]
    writer.close()
    await writer.wait_closed()
    assert subject


async def refused(request: JoinRequest, tmp_path: Path) -> JoinFailed:
    identity = Identity(tmp_path / "edge-data")
    with pytest.raises(JoinFailed) as caught:
        await asyncio.to_thread(join, request, identity)
    assert not identity.has_joined
    return caught.value


async def test_an_expired_token_says_when_it_expired(cloud: FakeCloud, tmp_path: Path) -> None:
    error = await refused(a_request(cloud, token=cloud.authority.token(-60)), tmp_path)
    assert "the token expired at 20" in error.message


async def test_a_token_of_another_cloud_is_told_by_its_hash(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    foreign = await asyncio.to_thread(Authority, tmp_path)
    error = await refused(a_request(cloud, token=foreign.token()), tmp_path)
    assert "is not the one that made this token" in error.message


async def test_a_token_with_a_wrong_signature_is_refused_by_the_cloud(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    error = await refused(a_request(cloud, token=cloud.authority.token(key=b"x")), tmp_path)
    assert "refused a certificate for edge-1: 401 bad-token" in error.message


@pytest.mark.parametrize("token", ["", "abc", "a.b.c.d", "0" * 64 + ".a.b.c"])
async def test_what_is_no_token_is_refused_before_any_connection(
    tmp_path: Path, token: str
) -> None:
    request = JoinRequest(cloud="https://127.0.0.1:1", token=token, node="edge-1")
    assert "token" in (await refused(request, tmp_path)).message


@pytest.mark.parametrize("node", ["n" * 53, "Edge_1", "-a"])
async def test_a_name_that_no_node_may_have_is_refused(
    cloud: FakeCloud, tmp_path: Path, node: str
) -> None:
    assert "node name" in (await refused(a_request(cloud, node=node), tmp_path)).message


async def test_a_taken_name_says_how_to_go_on(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.refusal = "node-exists"
    error = await refused(a_request(cloud), tmp_path)
    assert "node-exists" in error.message
    assert error.description is not None
    assert "--replace" in error.description


async def test_the_name_of_a_node_is_not_taken_twice_where_the_cloud_would_sign_it(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    cloud.nodes["edge-1"] = {}
    error = await refused(a_request(cloud), tmp_path)
    assert error.message == "node edge-1 exists in that cluster already"
    assert error.description is not None
    assert "kubectl delete node edge-1" in error.description
    assert "--replace" in error.description
    identity, steps = Identity(tmp_path / "edge-data"), list[Check]()
    replacing = replace(a_request(cloud), replace=True)
    await asyncio.to_thread(join, replacing, identity, steps.append)
    assert "becomes node edge-1" in {step.name: step.text for step in steps}["node name in use"]
    await asyncio.to_thread(join, a_request(cloud), identity)  # it is that node now
    other = a_request(cloud, node="edge-2")
    cloud.nodes["edge-2"] = {}
    with pytest.raises(JoinFailed, match="edge-2 exists"):
        await asyncio.to_thread(join, other, identity)


async def test_a_cloud_that_cannot_say_who_is_there_is_a_warning(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    cloud.is_ill = True
    steps: list[Check] = []
    identity = Identity(tmp_path / "edge-data")
    await asyncio.to_thread(join, a_request(cloud), identity, steps.append)
    warnings = [step for step in steps if step.mend]
    assert [(step.name, step.text) for step in warnings] == [
        ("node name in use", "the cloud cannot say")
    ]


@pytest.mark.parametrize(("seconds", "is_warned"), [(0.0, False), (-25.0, True), (25.0, True)])
async def test_a_clock_that_is_a_little_off_is_a_warning(
    cloud: FakeCloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    is_warned: bool,
) -> None:
    monkeypatch.setattr(edge.join, "now_ms", lambda: int((time.time() + seconds) * 1_000))
    steps: list[Check] = []
    identity = Identity(tmp_path / "edge-data")
    await asyncio.to_thread(join, a_request(cloud), identity, steps.append)
    clock = {step.name: step for step in steps}["clock"]
    assert ("timedatectl" in clock.mend) is is_warned


async def test_a_clock_that_is_far_off_ends_the_join(
    cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.join, "now_ms", lambda: int((time.time() - 400.0) * 1_000))
    error = await refused(a_request(cloud), tmp_path)
    assert "clock differs from the cloud's by -" in error.message


# --- the command ----------------------------------------------------------------------------------


async def edge_join(fake: FakeCloud, folder: Path, *more: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "edge", "join", f"https://{fake.https}"),
        *("--hub", fake.hub, "--token", fake.authority.token(), "--node-name", "edge-1"),
        *("--data-dir", str(folder), *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_command_reports_for_programs_too(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.nodes["edge-1"] = {}
    code, out, err = await edge_join(cloud, tmp_path / "n", "-o", "json")
    found = json.loads(out)
    assert (code, found["joined"], found["node"]) == (1, False, None)
    assert found["error"]["text"] == "node edge-1 exists in that cluster already"
    assert "--node-name" in found["error"]["mend"]
    assert "exists in that cluster already" in err
    names = [check["name"] for check in found["checks"]]
    assert names[:3] == ["container runtime", "cgroups", "other node agents"]

    code, out, err = await edge_join(cloud, tmp_path / "n", "-o", "json", "--replace")
    found = json.loads(out)
    assert (code, found["joined"], found["node"]) == (0, True, "edge-1"), err
    assert all(("mend" in check) == (check["state"] == "warn") for check in found["checks"])
    assert "error" not in found


async def test_the_command_tells_people_step_by_step(cloud: FakeCloud, tmp_path: Path) -> None:
    code, out, err = await edge_join(cloud, tmp_path / "n")
    assert code == 0, err
    assert "ok  node name in use: no\n" in out
    assert "Node edge-1 has joined" in out


async def test_a_closed_port_says_which_one(cloud: FakeCloud, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{probe.getsockname()[1]}"
        error = await refused(a_request(cloud, hub=free), tmp_path)
        assert "CloudHub's WebSocket port does not answer" in error.message
        error = await refused(a_request(cloud, cloud=f"https://{free}"), tmp_path)
        assert "CloudHub's HTTPS port does not answer" in error.message


async def test_an_address_without_host_is_refused(cloud: FakeCloud, tmp_path: Path) -> None:
    error = await refused(a_request(cloud, cloud="http://x"), tmp_path)
    assert "expected https://HOST:PORT" in error.message


def test_a_folder_that_has_not_joined_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="has not joined") as caught:
        Identity(tmp_path).load()
    assert "twinspan edge join" in (caught.value.description or "")
