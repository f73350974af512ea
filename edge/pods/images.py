"""Images of containers: there by the Pod's policy, pulled with its secrets, a few at a time, with back-off.

Source: kubelet 1.36 (order of steps, reasons and texts of events).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge.pods.imagenames import ALWAYS, NEVER, parse, policy_of, with_tag
from edge.pods.keyring import Entry, Keyring, entries_of_file, entries_of_secret
from edge.pods.podspec import Container, Pod
from edge.pods.ports import NotYet, Recorder
from edge.pods.runtime import Auth, Image, RuntimeAway, RuntimeFault, SandboxConfig
from gateway.errors import BadRequest, GatewayError, Rejected, Undeliverable
from gateway.model.json import JsonObject

log = logging.getLogger(__name__)

FIRST_SECONDS, MAX_SECONDS = 10.0, 300.0
"""Back-off after a failed pull; it doubles."""
FORGET_SECONDS = 2 * MAX_SECONDS
"""After so long without a try a back-off starts anew."""
PULLS = 3
"""Pulls at a time; the runtime shares layers between them."""
ERR_PULL, BACK_OFF, ERR_NEVER = "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"
INVALID_NAME, INSPECT = "InvalidImageName", "ImageInspectError"
OWN_REASONS = {
    "RegistryUnavailable": "the registry is unavailable",
    "SignatureValidationFailed": "the signature validation failed",
}
"""Errors that a runtime begins with, and how they are told."""


class ImageRuntime(Protocol):
    """What of the runtime is used here."""

    async def image(self, reference: str) -> Image | None: ...
    async def pull(
        self, reference: str, auth: Auth | None = None, sandbox: SandboxConfig | None = None
    ) -> str: ...


class Secrets(Protocol):
    async def secret(self, namespace: str, name: str) -> JsonObject:
        """Return a Secret. Errors: GatewayError."""


@dataclass(slots=True)
class _Wait:
    seconds: float
    since: float
    why: str


@dataclass(slots=True)
class PullBackoff:
    """How long each Pod waits before it pulls an image again. Units: seconds of any rising clock."""

    _waits: dict[tuple[str, str], _Wait] = field(default_factory=dict)

    def waiting(self, uid: str, image: str, now: float) -> str | None:
        """Return why the last pull failed while it is too early for the next, else None."""
        found = self._waits.get((uid, image))
        if found is None or not 0 <= now - found.since < found.seconds:
            return None
        return found.why

    def failed(self, uid: str, image: str, why: str, now: float) -> None:
        for key in [k for k, each in self._waits.items() if now - each.since > FORGET_SECONDS]:
            del self._waits[key]
        found = self._waits.get((uid, image))
        seconds = min(found.seconds * 2, MAX_SECONDS) if found else FIRST_SECONDS
        self._waits[uid, image] = _Wait(seconds, now, why)

    def succeeded(self, uid: str, image: str) -> None:
        self._waits.pop((uid, image), None)


class Puller:
    """Pulls images, `at_a_time`; of several credentials each is tried in turn."""

    def __init__(
        self, runtime: ImageRuntime, *, at_a_time: int = PULLS, registries: str = ""
    ) -> None:
        self._runtime = runtime
        self._slots = asyncio.Semaphore(max(1, at_a_time))
        self._registries = registries

    async def pull(
        self,
        image: str,
        entries: Sequence[Entry],
        sandbox: SandboxConfig | None = None,
        *,
        even_present: bool = True,
    ) -> tuple[str, float]:
        """Pull, and return the reference and how many seconds the pull itself took.

        Shape:  without `even_present` an image that came while this pull waited for its turn is taken as it
                is: many Pods of one new image ask their registry three times, not a hundred times.
        Errors: RuntimeFault; BadRequest for a name that is none.
        """
        own = await asyncio.to_thread(self._own_entries)
        repository = parse(image).repository
        candidates = Keyring(entries).lookup(repository) + Keyring(own).lookup(repository)
        async with self._slots:
            if not even_present and (found := await self._runtime.image(image)):
                return found.id, 0.0
            begun = time.monotonic()
            reference = await self._try(image, candidates or [None], sandbox)
        return reference, time.monotonic() - begun

    async def _try(
        self, image: str, candidates: Sequence[Auth | None], sandbox: SandboxConfig | None
    ) -> str:
        faults: list[RuntimeFault] = []
        for auth in candidates:
            try:
                return await self._runtime.pull(image, auth, sandbox)
            except RuntimeAway:
                raise
            except RuntimeFault as fault:
                faults.append(fault)
        words = list(dict.fromkeys(each.message for each in faults))
        raise RuntimeFault(words[0] if len(words) == 1 else f"[{', '.join(words)}]") from faults[-1]

    def _own_entries(self) -> list[Entry]:
        """Return the node's own credentials; a file that cannot be read is as none, with a warning."""
        if not self._registries:
            return []
        try:
            return entries_of_file(Path(self._registries).read_bytes())
        except (OSError, BadRequest) as error:
            log.warning(
                "the node's credentials of registries cannot be read", extra={"cause": str(error)}
            )
            return []


class PodImages:
    """The images of Pods. Implements `edge.pods.ports.Images`."""

    def __init__(
        self,
        runtime: ImageRuntime,
        puller: Puller,
        secrets: Secrets,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._puller = puller
        self._secrets = secrets
        self._recorder = recorder
        self._clock = clock
        self._backoff = PullBackoff()

    async def ensure(self, pod: Pod, container: Container, sandbox: SandboxConfig | None) -> str:
        """Return the reference to run. Errors: NotYet with the waiting state's reason; RuntimeAway."""
        try:
            image = with_tag(container.image)
        except BadRequest as error:
            text = f'Failed to apply default image tag "{container.image}": {error.message}'
            self._tell(pod, container, "Warning", "InspectFailed", text)
            raise NotYet(INVALID_NAME, text) from error
        policy = policy_of(container.image_pull_policy, image)
        if policy != ALWAYS and (present := await self._present(pod, container, image)):
            there = f'Container image "{container.image}" already present on machine'
            text = f"{there} and can be accessed by the pod"
            self._tell(pod, container, "Normal", "Pulled", text)
            return present
        if policy == NEVER:
            text = f'Container image "{container.image}" is not present with pull policy of Never'
            self._tell(pod, container, "Warning", ERR_NEVER, text)
            raise NotYet(ERR_NEVER, text)
        self._hold_back(pod, container)
        return await self._pull(pod, container, image, sandbox, even_present=policy == ALWAYS)

    async def _present(self, pod: Pod, container: Container, image: str) -> str:
        """Return a present image's id, else ""."""
        try:
            found = await self._runtime.image(image)
        except RuntimeAway:
            raise
        except RuntimeFault as fault:
            text = f'Failed to inspect image "": {fault.message}'
            self._tell(pod, container, "Warning", "InspectFailed", text)
            raise NotYet(INSPECT, text) from fault
        return found.id if found is not None else ""

    def _hold_back(self, pod: Pod, container: Container) -> None:
        why = self._backoff.waiting(pod.uid, container.image, self._clock())
        if why is not None:
            text = f'Back-off pulling image "{container.image}"'
            self._tell(pod, container, "Normal", "BackOff", text)
            raise NotYet(BACK_OFF, f"{text}: {why}")

    async def _pull(
        self,
        pod: Pod,
        container: Container,
        image: str,
        sandbox: SandboxConfig | None,
        *,
        even_present: bool,
    ) -> str:
        name, begun = container.image, self._clock()
        entries = await self._entries(pod)
        self._tell(pod, container, "Normal", "Pulling", f'Pulling image "{name}"')
        try:
            reference, seconds = await self._puller.pull(
                image, entries, sandbox, even_present=even_present
            )
        except RuntimeAway:
            raise
        except RuntimeFault as fault:
            text = f'Failed to pull image "{name}": {fault.message}'
            self._tell(pod, container, "Warning", "Failed", text)
            reason, message = judge(name, fault.message)
            self._backoff.failed(pod.uid, name, f"{reason}: {message}", self._clock())
            raise NotYet(reason, message) from fault
        self._backoff.succeeded(pod.uid, name)
        waited = self._clock() - begun
        self._tell(
            pod, container, "Normal", "Pulled", await self._told(name, image, seconds, waited)
        )
        return reference

    async def _told(self, name: str, image: str, seconds: float, waited: float) -> str:
        try:
            found = await self._runtime.image(image)
        except RuntimeFault:
            found = None
        return (
            f'Successfully pulled image "{name}" in {go_time(seconds)} ({go_time(max(waited, seconds))}'
            f" including waiting). Image size: {found.size if found else 0} bytes."
        )

    async def _entries(self, pod: Pod) -> list[Entry]:
        """Return what the Pod's pull secrets hold; a pull without them is tried all the same."""
        found: list[Entry] = []
        lost: list[str] = []
        for name in [each.name for each in pod.spec.image_pull_secrets if each.name]:
            try:
                found += entries_of_secret(await self._secrets.secret(pod.meta.namespace, name))
            except GatewayError as error:
                log.info("a pull secret is not to be had", extra={"cause": error.message})
                lost.append(name)
        if lost:
            text = (
                f"Unable to retrieve some image pull secrets ({', '.join(lost)}); attempting to pull "
                "the image may not succeed."
            )
            self._recorder.event(pod, "Warning", "FailedToRetrieveImagePullSecret", text)
        return found

    def _tell(self, pod: Pod, container: Container, kind: str, reason: str, text: str) -> None:
        self._recorder.event(pod, kind, reason, text, container)


class JobImages:
    """Images that a pre-pull job asks for. Implements `edge.ports.Images`."""

    def __init__(self, puller: Puller) -> None:
        self._puller = puller

    async def pull(self, image: str, secret: JsonObject | None, seconds: float) -> None:
        """Errors: Rejected for an image that cannot be had; Undeliverable for a runtime that is away."""
        name = with_tag(image)
        entries = entries_of_secret(secret) if secret is not None else []
        try:
            async with asyncio.timeout(seconds):
                await self._puller.pull(name, entries)
        except TimeoutError as error:
            raise Undeliverable(f"{image}: not pulled within {seconds:g} s") from error
        except RuntimeAway as fault:
            raise Undeliverable(fault.message) from fault
        except RuntimeFault as fault:
            raise Rejected(fault.message) from fault


def judge(image: str, words: str) -> tuple[str, str]:
    """Return reason and message of a pull that failed with a runtime's words."""
    for reason, told in OWN_REASONS.items():
        if words.startswith(reason):
            return reason, f"image pull failed for {image} because {told}{words[len(reason) :]}"
    return ERR_PULL, words


def go_time(seconds: float) -> str:
    """Write a time in whole milliseconds as Go does: `0s`, `350ms`, `1.25s`, `2m0.5s`."""
    whole = int(seconds * 1_000)
    if whole < 1_000:
        return f"{whole}ms" if whole else "0s"
    minutes, rest = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    told = f"{rest / 1_000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{told}"
    return f"{minutes}m{told}" if minutes else told
