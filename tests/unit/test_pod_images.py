"""Images of Pods: when they are pulled, with whose credentials, and what is told when they cannot be had."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from edge.pods.imagenames import parse, policy_of, with_tag
from edge.pods.images import JobImages, PodImages, PullBackoff, Puller, go_time, judge
from edge.pods.keyring import Keyring, entries_of_file, entries_of_secret
from edge.pods.podspec import Container, Pod, read_pod
from edge.pods.ports import NotYet
from edge.pods.runtime import Auth, Image, RuntimeAway, RuntimeFault, SandboxConfig
from gateway.errors import BadRequest, NotFound, Rejected, Undeliverable
from gateway.model.json import JsonObject

# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "repository", "tag"),
    [
        ("busybox", "docker.io/library/busybox", "latest"),
        ("busybox:1", "docker.io/library/busybox", "1"),
        ("user/app", "docker.io/user/app", "latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "latest"),
        ("localhost/app:2", "localhost/app", "2"),
        ("127.0.0.1:5000/a/b:v1.2", "127.0.0.1:5000/a/b", "v1.2"),
        ("ghcr.example/x/y@sha256:" + "a" * 64, "ghcr.example/x/y", ""),
        ("Host/app", "Host/app", "latest"),
        ("[::1]:5000/app", "[::1]:5000/app", "latest"),
    ],
)
def test_a_name_is_taken_apart(name: str, repository: str, tag: str) -> None:
    found = parse(name)
    assert (found.repository, found.tag) == (repository, tag)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "invalid reference format"),
        ("Busybox", "repository name \\(library/Busybox\\) must be lowercase"),
        ("a b", "invalid reference format"),
        ("app:", "invalid reference format"),
        ("app:-x", "invalid reference format"),
        ("a/" * 200 + "b", "must not be more than 255 characters"),
        ("app@sha256:" + "a" * 40, "invalid checksum digest length"),
        ("app@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("a" * 64, "invalid reference format"),
        ("app\n", "invalid reference format"),
    ],
)
def test_a_name_that_is_none_says_why(name: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        parse(name)


def test_an_image_without_tag_gets_the_latest() -> None:
    assert with_tag("busybox") == "busybox:latest"
    assert with_tag("127.0.0.1:5000/app") == "127.0.0.1:5000/app:latest"
    assert with_tag("busybox:1") == "busybox:1"
    digested = "busybox@sha256:" + "a" * 64
    assert with_tag(digested) == digested


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("a:1@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_the_policy_left_unsaid_goes_by_the_tag(image: str, policy: str) -> None:
    assert policy_of("", image) == policy
    assert policy_of("Never", image) == "Never"


# --- credentials ------------------------------------------------------------------------------------


def packed(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def users(auths: dict[str, JsonObject], repository: str) -> list[str]:
    entries = entries_of_file(json.dumps({"auths": auths}).encode())
    return [each.username for each in Keyring(entries).lookup(repository)]


def place(user: str) -> JsonObject:
    return {"auth": packed(user, "p")}


def test_credentials_of_the_more_special_place_come_first() -> None:
    auths = {"reg.example": place("wide"), "https://reg.example/team/app": place("narrow")}
    assert users(auths, "reg.example/team/app") == ["narrow", "wide"]
    assert users(auths, "reg.example/other") == ["wide"]
    assert users(auths, "other.example/team/app") == []


@pytest.mark.parametrize(
    ("glob", "repository", "fits"),
    [
        ("*.reg.example", "a.reg.example/x", True),
        ("*.reg.example", "reg.example/x", False),
        ("*.reg.example", "a.b.reg.example/x", False),
        ("a*.reg.example", "abc.reg.example/x", True),
        ("*.reg.example:5000", "a.reg.example:5000/x", True),
        ("*.reg.example:5000", "a.reg.example/x", False),
        ("reg.example/v2/", "reg.example/x", True),
        ("reg.example/a", "reg.example/b", False),
    ],
)
def test_places_with_wildcards_fit_part_by_part(glob: str, repository: str, fits: bool) -> None:
    assert users({glob: place("u")}, repository) == (["u"] if fits else [])


def test_dockers_own_place_is_for_names_without_a_registry() -> None:
    auths = {"https://index.docker.io/v1/": place("hub")}
    assert users(auths, parse("busybox").repository) == ["hub"]
    assert users(auths, parse("quay.example/busybox").repository) == []


def test_user_and_password_may_stand_in_plain() -> None:
    text = json.dumps({"r.example": {"username": "u", "password": "p:q"}}).encode()
    (auth,) = Keyring(entries_of_file(text, bare=True)).lookup("r.example/x")
    assert auth == Auth(username="u", password="p:q")


@pytest.mark.parametrize(
    "text",
    [
        b"no json",
        b'{"auths": 1}',
        b'{"auths": {"a": 1}}',
        b'{"auths": {"a": {"auth": "###"}}}',
        b'{"auths": {"a": {"auth": "bm9jb2xvbg=="}}}',
    ],
)
def test_credentials_that_cannot_be_read_are_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        entries_of_file(text)


def secret(
    auths: dict[str, JsonObject], kind: str = "kubernetes.io/dockerconfigjson"
) -> JsonObject:
    text = json.dumps({"auths": auths} if kind.endswith("json") else auths)
    key = ".dockerconfigjson" if kind.endswith("json") else ".dockercfg"
    return {"type": kind, "data": {key: base64.b64encode(text.encode()).decode()}}


def test_secrets_of_both_types_and_no_other_are_read() -> None:
    both = [secret({"r": place("a")}), secret({"r": place("b")}, "kubernetes.io/dockercfg")]
    assert [entries_of_secret(each)[0].auth.username for each in both] == ["a", "b"]
    assert entries_of_secret({**both[0], "type": "Opaque"}) == []
    assert entries_of_secret({"type": "kubernetes.io/dockercfg"}) == []


# --- back-off ---------------------------------------------------------------------------------------


def test_the_wait_after_a_failed_pull_doubles_up_to_five_minutes() -> None:
    backoff, now, waits = PullBackoff(), 0.0, []
    for _ in range(7):
        backoff.failed("u", "a", "why", now)
        seconds = 0
        while backoff.waiting("u", "a", now + seconds) is not None:
            seconds += 1
        waits.append(seconds)
        now += seconds
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert backoff.waiting("other", "a", now) is None


def test_a_wait_starts_anew_after_a_success_or_a_long_time() -> None:
    backoff = PullBackoff()
    for at in (0.0, 10.0, 30.0):
        backoff.failed("u", "a", "why", at)
    backoff.succeeded("u", "a")
    backoff.failed("u", "a", "why", 100.0)
    assert backoff.waiting("u", "a", 110.0) is None
    backoff.failed("u", "a", "why", 800.0)
    assert backoff.waiting("u", "a", 810.0) is None


def test_what_was_forgotten_long_ago_takes_no_room() -> None:
    backoff = PullBackoff()
    for number in range(100):
        backoff.failed(str(number), "a", "why", 0.0)
    backoff.failed("new", "a", "why", 1_000.0)
    assert len(backoff._waits) == 1


# --- pulls ------------------------------------------------------------------------------------------


class FakeRuntime:
    def __init__(self) -> None:
        self.present: dict[str, Image] = {}
        self.faults: list[RuntimeFault] = []
        self.pulls: list[tuple[str, str]] = []
        self.now = self.most = 0
        self.gate: asyncio.Event | None = None

    async def image(self, reference: str) -> Image | None:
        return self.present.get(reference)

    async def pull(
        self, reference: str, auth: Auth | None = None, sandbox: SandboxConfig | None = None
    ) -> str:
        self.pulls.append((reference, auth.username if auth else ""))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.faults:
                raise self.faults.pop(0)
        finally:
            self.now -= 1
        self.present[reference] = Image(id=f"id-{reference}", size=77)
        return f"id-{reference}"


class FakeSecrets:
    def __init__(self) -> None:
        self.items: dict[str, JsonObject] = {}

    async def secret(self, namespace: str, name: str) -> JsonObject:
        if name not in self.items:
            raise NotFound(f"{namespace}/{name}")
        return self.items[name]


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        self.events.append((kind, reason, message))

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append((kind, reason, message))


class Rig:
    def __init__(self) -> None:
        self.runtime, self.secrets, self.told = FakeRuntime(), FakeSecrets(), Told()
        self.now = 0.0
        self.images = PodImages(
            self.runtime, Puller(self.runtime), self.secrets, self.told, lambda: self.now
        )

    async def ensure(self, image: str, policy: str = "", secrets: tuple[str, ...] = ()) -> str:
        pod = read_pod(
            {
                "metadata": {"uid": "u1", "name": "p"},
                "spec": {"imagePullSecrets": [{"name": each} for each in secrets]},
            }
        )
        container = Container(name="main", image=image, image_pull_policy=policy)
        return await self.images.ensure(pod, container, None)

    async def refused(self, image: str, policy: str = "") -> tuple[str, str]:
        with pytest.raises(NotYet) as caught:
            await self.ensure(image, policy)
        return caught.value.reason, caught.value.message

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.told.events]


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_a_present_image_is_not_pulled_unless_always(rig: Rig) -> None:
    rig.runtime.present["a:1"] = Image(id="id-a")
    assert await rig.ensure("a:1") == "id-a"
    there = 'Container image "a:1" already present on machine'
    assert rig.told.events == [("Normal", "Pulled", f"{there} and can be accessed by the pod")]
    assert rig.runtime.pulls == []
    assert await rig.ensure("a:1", "Always") == "id-a:1"
    assert rig.runtime.pulls == [("a:1", "")]


async def test_a_pull_is_told_from_beginning_to_end(rig: Rig) -> None:
    assert await rig.ensure("a") == "id-a:latest"
    assert rig.reasons == ["Pulling", "Pulled"]
    assert rig.told.events[0][2] == 'Pulling image "a"'
    assert rig.told.events[1][2].startswith('Successfully pulled image "a" in ')
    assert rig.told.events[1][2].endswith(" including waiting). Image size: 77 bytes.")


async def test_an_image_that_may_never_be_pulled_says_so(rig: Rig) -> None:
    text = 'Container image "a:1" is not present with pull policy of Never'
    assert await rig.refused("a:1", "Never") == ("ErrImageNeverPull", text)
    assert rig.told.events == [("Warning", "ErrImageNeverPull", text)]


async def test_a_name_that_is_none_is_told_before_anything_else(rig: Rig) -> None:
    reason, message = await rig.refused("Not:A:Name")
    assert reason == "InvalidImageName"
    assert message.startswith('Failed to apply default image tag "Not:A:Name": couldn\'t parse')
    assert rig.reasons == ["InspectFailed"]


async def test_a_failed_pull_is_tried_again_only_after_its_wait(rig: Rig) -> None:
    rig.runtime.faults = [RuntimeFault("no such image")] * 2
    assert await rig.refused("a:1") == ("ErrImagePull", "no such image")
    assert await rig.refused("a:1") == (
        "ImagePullBackOff",
        'Back-off pulling image "a:1": ErrImagePull: no such image',
    )
    assert len(rig.runtime.pulls) == 1
    rig.now = 10.0
    assert (await rig.refused("a:1"))[0] == "ErrImagePull"
    rig.now = 29.0
    assert (await rig.refused("a:1"))[0] == "ImagePullBackOff"
    rig.now = 30.0
    assert await rig.ensure("a:1") == "id-a:1"
    assert rig.reasons == [
        "Pulling",
        "Failed",
        "BackOff",
        "Pulling",
        "Failed",
        "BackOff",
        "Pulling",
        "Pulled",
    ]


async def test_a_registry_that_is_not_there_has_its_own_reason(rig: Rig) -> None:
    rig.runtime.faults = [RuntimeFault("RegistryUnavailable: connection refused")]
    assert await rig.refused("a:1") == (
        "RegistryUnavailable",
        "image pull failed for a:1 because the registry is unavailable: connection refused",
    )
    assert judge("a", "SignatureValidationFailed")[0] == "SignatureValidationFailed"


async def test_a_runtime_that_is_away_is_no_fault_of_the_image(rig: Rig) -> None:
    rig.runtime.faults = [RuntimeAway("gone")]
    with pytest.raises(RuntimeAway):
        await rig.ensure("a:1")
    assert await rig.ensure("a:1") == "id-a:1"


async def test_the_pods_secrets_are_tried_one_after_another(rig: Rig) -> None:
    rig.secrets.items = {
        "one": secret({"reg.example": place("old")}),
        "two": secret({"reg.example": place("new"), "reg.example/x": place("near")}),
    }
    rig.runtime.faults = [RuntimeFault("401"), RuntimeFault("401")]
    await rig.ensure("reg.example/x:1", secrets=("one", "two"))
    assert [user for _, user in rig.runtime.pulls] == ["near", "old", "new"]


async def test_a_lost_secret_is_told_and_the_pull_tried_without(rig: Rig) -> None:
    rig.secrets.items = {"bad": {"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "%"}}}
    await rig.ensure("reg.example/x:1", secrets=("lost", "bad"))
    assert rig.told.events[0] == (
        "Warning",
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (lost, bad); attempting to pull the image may not "
        "succeed.",
    )
    assert rig.runtime.pulls == [("reg.example/x:1", "")]


async def test_all_refusals_are_in_the_message_once(rig: Rig) -> None:
    rig.secrets.items = {"one": secret({"r.example": place("a"), "r.example/x": place("b")})}
    rig.runtime.faults = [RuntimeFault("401"), RuntimeFault("403")]
    with pytest.raises(NotYet, match=r"^\[401, 403\]$"):
        await rig.ensure("r.example/x:1", secrets=("one",))


async def test_the_nodes_own_credentials_come_last(tmp_path: Path) -> None:
    path, runtime = tmp_path / "config.json", FakeRuntime()
    path.write_text(json.dumps({"auths": {"r.example": place("node")}}))
    runtime.faults = [RuntimeFault("401")]
    puller = Puller(runtime, registries=str(path))
    await puller.pull("r.example/x:1", entries_of_secret(secret({"r.example": place("pod")})))
    path.write_text("broken")
    await puller.pull("r.example/x:1", [])
    assert [user for _, user in runtime.pulls] == ["pod", "node", ""]


async def test_no_more_pulls_at_a_time_than_said() -> None:
    runtime = FakeRuntime()
    runtime.gate = asyncio.Event()
    puller = Puller(runtime, at_a_time=2)
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(puller.pull(f"a:{number}", []))
        async with asyncio.timeout(5):
            while runtime.now < 2:  # noqa: ASYNC110  the fake tells nobody
                await asyncio.sleep(0.001)
        runtime.gate.set()
    assert (len(runtime.pulls), runtime.most) == (5, 2)


async def test_many_pods_of_one_new_image_ask_the_registry_a_few_times(rig: Rig) -> None:
    rig.runtime.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        pods = [group.create_task(rig.ensure("a:1")) for _ in range(20)]
        async with asyncio.timeout(5):
            while rig.runtime.now < 3:  # noqa: ASYNC110  the fake tells nobody
                await asyncio.sleep(0.001)
        rig.runtime.gate.set()
    assert {each.result() for each in pods} == {"id-a:1"}
    assert len(rig.runtime.pulls) == 3


@pytest.mark.parametrize(
    ("fault", "kind"), [(RuntimeFault("404"), Rejected), (RuntimeAway("gone"), Undeliverable)]
)
async def test_a_job_learns_why_an_image_is_not_there(
    fault: RuntimeFault, kind: type[Exception]
) -> None:
    runtime = FakeRuntime()
    runtime.faults = [fault]
    with pytest.raises(kind, match=fault.message):
        await JobImages(Puller(runtime)).pull("a", None, 5.0)


async def test_a_job_that_waits_too_long_gives_up() -> None:
    runtime = FakeRuntime()
    runtime.gate = asyncio.Event()
    with pytest.raises(Undeliverable, match=r"not pulled within 0\.01 s"):
        await JobImages(Puller(runtime)).pull("a", secret({"r": place("a")}), 0.01)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0123, "12ms"),
        (1.25, "1.25s"),
        (20, "20s"),
        (120.5, "2m0.5s"),
        (3_600, "1h0m0s"),
    ],
)
def test_times_are_written_as_go_does(seconds: float, text: str) -> None:
    assert go_time(seconds) == text
