"""The kubelet's API before containers of a real containerd: logs, run, refusals, raw upgrades."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from edge.pods.runtime import State
from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.kubelet_rig import Served, a_kubelet, a_pod

SLEEP = ("sleep", "3600")


async def get(served: Served, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, served.url + path, headers=headers) as answer,
    ):
        return answer.status, await answer.text()


async def test_the_log_of_a_container_and_of_the_one_before(
    tmp_path: Path, containerd: Containerd
) -> None:
    async with a_kubelet(containerd, tmp_path) as served:
        words = ("sh", "-c", "echo out $0; echo err >&2; exit 3")
        pod = await served.pods.make(a_pod("p", words))
        await served.pods.settled(pod, "c", State.EXITED)
        path = "/containerLogs/default/p/c"
        status, text = await get(served, path)
        assert (status, sorted(text.splitlines())) == (200, ["err", "out sh"])
        assert await get(served, path + "?stream=Stderr") == (200, "err\n")
        assert await get(served, path + "?previous=true") == (
            400,
            'previous terminated container "c" in pod "p" not found',
        )
        await served.pods.start(pod, "c", attempt=1)
        await served.pods.settled(pod, "c", State.EXITED)
        assert (await get(served, path + "?previous=true&tailLines=1"))[0] == 200


async def test_a_log_is_followed_until_its_container_ends(
    tmp_path: Path, containerd: Containerd
) -> None:
    async with a_kubelet(containerd, tmp_path) as served:
        words = ("sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.2; done; printf last")
        await served.pods.make(a_pod("p", words))
        async with asyncio.timeout(20):
            found = await get(served, "/containerLogs/default/p/c?follow=true")
        assert found == (200, "line 1\nline 2\nline 3\nlast")


async def test_what_the_kubelet_says_of_what_is_not_there(
    tmp_path: Path, containerd: Containerd
) -> None:
    async with a_kubelet(containerd, tmp_path) as served:
        await served.pods.make(a_pod("p", SLEEP))
        login = served.login
        assert await get(served, "/containerLogs/default/no/c") == (404, 'pod "no" does not exist')
        assert await get(served, "/containerLogs/default/p/no") == (
            404,
            'container "no" not found in pod "p"',
        )
        bad = "/containerLogs/default/p/c?tailLines=x"
        assert await get(served, bad) == (400, '{"message": "Unable to decode query."}')
        up = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
        exec_ = "/exec/default/p/%s?command=ls&output=1"
        assert await get(served, exec_ % "no", method="POST", **up, **login) == (
            500,
            'container not found ("no")',
        )
        assert await get(served, "/exec/default/p/c?command=ls", **up, **login) == (
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        )
        assert await get(served, exec_ % "c", **login) == (500, "Upgrade request required")
        assert (await get(served, "/portForward/default/no", **up, **login)) == (
            404,
            "pod does not exist",
        )
        assert (await get(served, "/logs/"))[0] == 501
        assert (await get(served, "/checkpoint/default/p/c", method="POST"))[0] == 404
        assert (await get(served, "/stats/summary"))[0] == 501


async def test_commands_need_the_token_and_reads_do_not(
    tmp_path: Path, containerd: Containerd
) -> None:
    async with a_kubelet(containerd, tmp_path) as served:
        await served.pods.make(a_pod("p", SLEEP))
        run = "/run/default/p/c?cmd=echo+hello"
        assert await get(served, run, method="POST") == (401, "Unauthorized")
        assert await get(served, run, method="POST", Authorization="Bearer no") == (
            401,
            "Unauthorized",
        )
        assert await get(served, run, method="POST", **served.login) == (200, "hello\n")
        status, text = await get(
            served, "/run/default/p/c?cmd=false", method="POST", **served.login
        )
        assert (status, text) == (500, "command 'false' exited with 1: ")
        for path in ("/exec/default/p/c?command=ls&output=1", "/portForward/default/p"):
            assert (await get(served, path, method="POST"))[0] == 401
        assert (tmp_path / "edge" / "kubelet.token").stat().st_mode & 0o777 == 0o600
        assert (await get(served, "/pods", Host="evil.example"))[0] == 403
        assert await get(served, "/healthz") == (200, "ok")


async def test_the_pods_of_the_node_are_listed(tmp_path: Path, containerd: Containerd) -> None:
    async with a_kubelet(containerd, tmp_path) as served:
        await served.pods.make(a_pod("p", SLEEP))
        async with aiohttp.ClientSession() as http:
            async with http.get(served.url + "/pods") as answer:
                pods = await answer.json()
            async with http.get(served.url + "/runningpods/") as answer:
                runs = await answer.json()
        assert pods["kind"] == runs["kind"] == "PodList"
        assert pods["items"][0]["status"]["containerStatuses"][0]["ready"]
        assert runs["items"][0]["spec"]["containers"][0]["name"] == "c"
        text = (await get(served, "/metrics"))[1]
        assert 'kubelet_running_containers{container_state="running"} 1' in text


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_a_websocket_is_the_runtimes_matter(
    tmp_path: Path, containerd: Containerd, protocol: str
) -> None:
    """containerd 1.6 refuses v5, so that kubectl takes SPDY; other clients speak v4 with it."""
    async with a_kubelet(containerd, tmp_path) as served, aiohttp.ClientSession() as http:
        await served.pods.make(a_pod("p", SLEEP))
        url = served.url + "/exec/default/p/c?command=echo&command=hi&output=1"
        if protocol.startswith("v5"):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect(url, protocols=(protocol,), headers=served.login)
            return
        async with http.ws_connect(url, protocols=(protocol,), headers=served.login) as socket:
            assert b"\x01hi\n" in [message.data async for message in socket]
