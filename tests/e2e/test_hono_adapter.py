"""A protocol adapter made of Hono's own parts (its Java clients) lives on our internal services."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import pytest
from proton import Message

from tests.device_pki import Holder, issue
from tests.integration.proton_peer import Received
from tests.ports import free_port
from tests.process import Twinspan, tool, twinspan
from tests.walk import Walk, in_thread

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "clients" / "hono" / "Adapter.java"
PARTS = ROOT / ".peers" / "hono-clients" / "java"
SECONDS = 60.0
SETS = (
    "hono.internal.enabled=true",
    "hono.internal.bind=127.0.0.1:0",
    "hono.internal.tls_bind=127.0.0.1:0",
)


class Adapter:
    """The running adapter: steps go in, answers and what it tells by itself come out."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answers: Queue[str] = Queue()
        self._told: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kept = self._told if line.startswith("* ") else self._answers
            kept.put(line.removeprefix("* ").strip())

    def answer(self) -> str:
        try:
            return self._answers.get(timeout=SECONDS)
        except Empty:
            raise AssertionError("the adapter does not answer") from None

    async def do(self, step: str) -> str:
        """Let the adapter do something; returns what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        return await in_thread(self.answer)

    async def told(self, about: str) -> str:
        """What the adapter tells next by itself about something; the rest is passed over."""

        def get() -> str:
            try:
                while not (told := self._told.get(timeout=SECONDS)).startswith(about):
                    pass
            except Empty:
                raise AssertionError(f"the adapter tells nothing about {about}") from None
            return told

        return await in_thread(get)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter, compiled."""
    if not PARTS.exists():
        pytest.skip("no parts of Hono; scripts/hono-clients.sh gets them")
    folder = tmp_path_factory.mktemp("adapter")
    command = [tool("javac"), "-d", str(folder), "-cp", f"{PARTS}/*", str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def service(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    folder = tmp_path_factory.mktemp("services")
    with twinspan(folder / "data", "gateway", "--demo", sets=SETS) as running:
        yield running


@contextmanager
def an_adapter(classes: Path, address: str, *more: str) -> Iterator[Adapter]:
    """Run the adapter against an address for the length of the block."""
    host, _, port = address.rpartition(":")
    command = [
        tool("java"),
        "-Dvertx.json.base64=legacy",  # as all of Hono's components run
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        "-cp",
        f"{classes}:{PARTS}/*",
        "Adapter",
        *(host, port, "http-adapter@HONO", "http-secret", *more),
    ]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            running = Adapter(process)
            assert running.answer() == "ready"
            yield running
        finally:
            process.kill()


@pytest.fixture(scope="module")
def adapter(service: Twinspan, classes: Path) -> Iterator[Adapter]:
    with an_adapter(classes, service.endpoints["hono.internal"]) as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> Holder:
    return issue("CN=Acme CA,O=Acme,C=CA")


@pytest.fixture(scope="module")
def walk(service: Twinspan, authority: Holder) -> Walk:
    """Tenant `acme` with a trust anchor that provisions, device d1, gateway gw-1 and d2 behind it."""
    walk = Walk(service)
    anchor = {**authority.anchor(), "auto-provisioning-enabled": True}
    tenant = {
        "trusted-ca": [anchor],
        "adapters": [{"type": "hono-http", "enabled": True}],
        "defaults": {"ttl": 60},
    }
    assert walk.registry("POST", "tenants/acme", data=tenant).status == 201
    walk.a_device("acme", "d1")
    walk.a_device("acme", "gw-1")
    behind = {"via": ["gw-1"], "defaults": {"color": "red"}}
    assert walk.registry("POST", "devices/acme/d2", data=behind).status == 201
    return walk


async def test_tenants_are_found_by_id_and_by_trust_anchor(walk: Walk, adapter: Adapter) -> None:
    assert await adapter.do("tenant acme") == "ok acme true true"
    assert (await adapter.do("tenant nobody")).startswith("failed 404")
    assert await adapter.do("anchor cn=Acme CA, o=Acme, c=CA") == "ok acme 1"
    assert (await adapter.do("anchor CN=Other")).startswith("failed 404")


async def test_registrations_are_asserted(walk: Walk, adapter: Adapter) -> None:
    assert await adapter.do("assert acme d1") == "ok d1 [] {}"
    assert await adapter.do("assert acme d2 gw-1") == "ok d2 [gw-1] {color=red}"
    assert (await adapter.do("assert acme d2 d1")).startswith("failed 403")
    assert (await adapter.do("assert acme d9")).startswith("failed 404")


async def test_credentials_are_given(walk: Walk, adapter: Adapter) -> None:
    found = await adapter.do("credentials acme hashed-password login-d1")
    assert found.startswith("ok d1 [{")
    assert '"hash-function":"bcrypt"' in found
    assert (await adapter.do("credentials acme hashed-password nobody")).startswith("failed 404")


async def test_a_certificate_makes_its_device(
    walk: Walk, adapter: Adapter, authority: Holder
) -> None:
    device = issue("CN=new-one,O=Acme,C=CA", authority)
    made = await adapter.do(f"provision acme {base64.b64encode(device.der).decode()}")
    state, device_id = made.split(" ")
    assert state == "ok"
    found = await in_thread(walk.registry, "GET", f"devices/acme/{device_id}")
    assert found.json["status"]["auto-provisioned"] is True


async def test_uploads_reach_applications_with_their_outcome(walk: Walk, adapter: Adapter) -> None:
    await adapter.do("tenant acme")
    await adapter.do("assert acme d1")
    assert (await adapter.do("telemetry nobody-is-there")).startswith("failed 503")
    assert (await adapter.do("event kept")).startswith("ok")
    async with walk.application() as application:
        for address in ("telemetry/acme", "event/acme"):
            application.receive_from(address)
            await application.expect("attached")
        _, _, event = await application.expect("message")
        while event.content_type != "text/plain":  # of provisioning
            _, _, event = await application.expect("message")
        assert (event.body, event.durable, event.ttl) == (b"kept", True, event.ttl)
        assert event.properties["orig_adapter"] == "hono-test"
        assert (await adapter.do("telemetry hello")).startswith("ok")
        _, _, telemetry = await application.expect("message")
    assert (telemetry.address, telemetry.body) == ("telemetry/acme", b"hello")
    assert telemetry.properties["device_id"] == "d1"
    assert telemetry.annotations["resource"] == "telemetry/acme/d1"


async def command(
    walk: Walk, device: str, payload: str, *, waits: bool = False, tenant: str = "acme"
) -> tuple[object, ...]:
    """Send a command as an application; returns its outcome, and the response where one is awaited."""
    async with walk.application() as application:
        message = Message(address=f"command/{tenant}/{device}", subject="do", body=payload.encode())
        message.inferred = True
        if waits:
            reply_to = "command_response/acme/here/1"
            message.id, message.reply_to = "c1", reply_to
            application.receive_from(reply_to)
            await application.expect("attached")
        application.send(f"command/{tenant}", message, payload)
        outcome = await application.expect("outcome")
        response: Received | None = None
        if waits:
            _, _, response = await application.expect("message")
    return (*outcome[2:], response)


async def test_commands_reach_devices_of_the_adapter(walk: Walk, adapter: Adapter) -> None:
    await adapter.do("tenant acme")
    await adapter.do("assert acme d1")
    assert (await command(walk, "d1", "nobody"))[0] == "released"
    assert (await adapter.do("listen acme d1")).startswith("ok")
    assert (await command(walk, "d1", "work"))[0] == "accepted"
    assert await adapter.told("command") == "command do d1 null work"
    assert (await command(walk, "d1", "release"))[0] == "released"
    await adapter.told("command")
    rejected = await command(walk, "d1", "reject")
    assert rejected[:3] == ("rejected", "hono:bad-request", "I will not")
    await adapter.told("command")
    *outcome, response = await command(walk, "d1", "ask", waits=True)
    assert outcome[0] == "accepted"
    assert isinstance(response, Received)
    assert (response.body, response.correlation_id) == (b"did ask", "c1")
    assert response.properties["status"] == 200
    assert await adapter.told("command") == "command do d1 null ask"
    assert await adapter.told("response") == "response sent"
    assert (await adapter.do("leave")).startswith("ok")
    assert (await command(walk, "d1", "gone"))[0] == "released"


async def test_commands_go_through_the_gateway_of_a_device(walk: Walk, adapter: Adapter) -> None:
    assert (await adapter.do("listen acme gw-1")).startswith("ok")
    assert (await adapter.do("last acme d2 gw-1")).startswith("ok")
    assert (await command(walk, "d2", "work"))[0] == "accepted"
    assert await adapter.told("command") == "command do d2 gw-1 work"
    assert (await adapter.do("leave")).startswith("ok")
    assert (await adapter.do("listen-for acme d2 gw-1")).startswith("ok")
    assert (await command(walk, "d2", "again"))[0] == "accepted"
    assert await adapter.told("command") == "command do d2 gw-1 again"


async def test_the_adapter_hears_of_registry_changes(walk: Walk, adapter: Adapter) -> None:
    changed = await in_thread(
        walk.registry, "PUT", "devices/acme/d2", data={"via": ["gw-1"], "enabled": False}
    )
    assert changed.status == 204
    assert await adapter.told("device d2") == "device d2 UPDATE false"


async def test_the_adapter_comes_over_tls(service: Twinspan, classes: Path) -> None:
    trusted = str(service.data_dir / "tls" / "ca.crt")
    with an_adapter(classes, service.endpoints["hono.internals"], trusted) as secure:
        assert await secure.do("assert DEFAULT_TENANT 4711") == (
            "ok 4711 [] {content-type=application/vnd.bumlux, importance=high}"
        )


async def test_the_adapter_comes_back_after_a_restart(classes: Path, tmp_path: Path) -> None:
    sets = (SETS[0], f"hono.internal.bind=127.0.0.1:{free_port()}", SETS[2])
    with (
        twinspan(tmp_path / "data", "gateway", "--demo", sets=sets) as running,
        an_adapter(classes, running.endpoints["hono.internal"]) as adapter,
    ):
        assert (await adapter.do("tenant DEFAULT_TENANT")).startswith("ok")
        assert (await adapter.do("listen-for DEFAULT_TENANT 4712 gw-1")).startswith("ok")
        await in_thread(running.stop)
        await in_thread(running.start)
        async with asyncio.timeout(SECONDS):  # its back-off grows to seven seconds
            while not (await adapter.do("assert DEFAULT_TENANT 4711")).startswith("ok 4711"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            walk, is_accepted = Walk(running), False
            while not is_accepted:  # it does not register its devices again
                outcome = await command(walk, "4712", "work", tenant="DEFAULT_TENANT")
                is_accepted = outcome[0] == "accepted"
