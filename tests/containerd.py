"""A real containerd of a test's own: its folders, socket, bridge and registry, gone when the block ends.

`with running_containerd() as rig:`, or the fixture `containerd` (one for a test module):
`from tests.containerd import containerd as containerd`. Two workers at once do not meet: each takes a
numbered slot (a lock file) that names the bridge and the subnet.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from cri_api.v1 import api_pb2, api_pb2_grpc

from edge.pods.cri import CriRuntime
from edge.pods.runtime import RuntimeFault
from tests.ociimages import Registry, busybox_path, serving

log = logging.getLogger(__name__)

NETWORK = "twinspan-test"
PREFIX = "/tmp/tsctd"
"""Of the folders; sockets need short names."""
SLOTS = Path(tempfile.gettempdir()) / "twinspan-containerd-slots"
PLUGIN_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")
PLUGINS = ("bridge", "host-local", "loopback", "portmap")
CGROUPS, CNI_RESULTS = Path("/sys/fs/cgroup"), Path("/var/lib/cni/results")
ENVIRONMENT = {**os.environ, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
START_SECONDS, STOP_SECONDS = 30.0, 10.0
PATIENCE = 60.0
"""Seconds until what cannot be removed fails the test."""

CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/net.d"
"""


@dataclass
class Containerd:
    """One containerd. `kill` and `restart` leave the containers running, as in life."""

    folder: Path
    registry: Registry
    slot: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def socket(self) -> Path:
        return self.folder / "c.sock"

    @property
    def endpoint(self) -> str:
        """What `edge.workloads.runtime` is set to."""
        return f"unix://{self.socket}"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def bridge(self) -> str:
        return f"tstest{self.slot}"

    @property
    def cgroup_root(self) -> str:
        """What `edge.workloads.cgroup_root` is set to: groups below it go with this containerd."""
        return f"tstest{self.slot}pods"

    @property
    def subnet(self) -> str:
        return f"10.213.{self.slot}.0/24"

    @property
    def gateway(self) -> str:
        """The node's own address on the Pods' network."""
        return f"10.213.{self.slot}.1"

    @property
    def log(self) -> Path:
        return self.folder / "containerd.log"

    def image(self, name: str = "busybox") -> str:
        """Return the full name of one of the registry's images (see `standard_images`)."""
        return self.registry.name(name)

    # --- life ---------------------------------------------------------------------------------------

    def start(self) -> Containerd:
        """Start, and wait until CRI and the network are ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(self.folder / "config.toml")],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        _eventually(self._is_ready, START_SECONDS, f"containerd did not start, see {self.log}")
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"containerd ended at start:\n{self.log.read_text()[-4000:]}")
        try:
            with self.calls() as stub:
                answer = stub.Status(api_pb2.StatusRequest(), timeout=2.0)
        except grpc.RpcError:
            return False
        return all(bool(each.status) for each in answer.status.conditions)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask containerd to stop; its containers go on."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SECONDS)

    def restart(self, *, hard: bool = False) -> None:
        """Stop (`hard`: kill) and start again."""
        self.kill() if hard else self.stop()
        self.start()

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """A blocking channel of one's own, to look from beside."""
        with grpc.insecure_channel(self.endpoint) as channel:
            yield channel

    @contextmanager
    def calls(self) -> Iterator[Any]:
        """The calls of CRI's RuntimeService, blocking: `calls.ListContainers(request)`."""
        with self.channel() as channel:
            yield api_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call]

    # --- what is there ------------------------------------------------------------------------------

    def pull(self, name: str = "busybox") -> str:
        """Have an image on the node and return its full name."""
        with self.channel() as channel:
            spec = api_pb2.ImageSpec(image=self.image(name))
            images: Any = api_pb2_grpc.ImageServiceStub(channel)  # type: ignore[no-untyped-call]
            images.PullImage(api_pb2.PullImageRequest(image=spec), timeout=60.0)
        return self.image(name)

    def sandboxes(self) -> list[str]:
        """Return the ids of all sandboxes, also those that ended."""
        with self.calls() as stub:
            found = stub.ListPodSandbox(api_pb2.ListPodSandboxRequest(), timeout=10.0)
        return [str(each.id) for each in found.items]

    def containers(self) -> list[str]:
        """Return the ids of all containers, also those that ended."""
        with self.calls() as stub:
            found = stub.ListContainers(api_pb2.ListContainersRequest(), timeout=10.0)
        return [str(each.id) for each in found.containers]

    def shims(self) -> list[int]:
        """Return the process ids of this containerd's shims."""
        return [pid for pid, words in _processes() if _is_shim(words) and str(self.socket) in words]

    def mounts(self) -> list[str]:
        """Return the mount points below this containerd's folder, deepest first."""
        return mounts_below(self.folder)

    def remove_pods(self) -> None:
        """Stop and remove all sandboxes with their containers, as patiently as `remove_sandboxes`."""
        for each in self.sandboxes():
            deadline = time.monotonic() + PATIENCE
            while (error := self._remove_pod(each)) is not None:
                if time.monotonic() > deadline:
                    raise error
                time.sleep(0.1)

    def _remove_pod(self, sandbox: str) -> grpc.RpcError | None:
        stop = api_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox)
        remove = api_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox)
        with self.calls() as stub:
            try:
                stub.StopPodSandbox(stop, timeout=30.0)
                stub.RemovePodSandbox(remove, timeout=30.0)
            except grpc.RpcError as error:
                return error
        return None

    # --- the end ------------------------------------------------------------------------------------

    def clean(self, *, by_force: bool = False) -> None:
        """End everything: Pods in the ordinary way where that works, else by process id and name."""
        if not by_force:
            self._end_pods()
        self.stop()
        self._end_shims()
        _remove_groups(self.cgroup_root)
        unmount_below(self.folder)
        _remove_network(self.network, self.bridge)
        shutil.rmtree(self.folder)

    def _end_pods(self) -> None:
        try:
            if self._process is None or self._process.poll() is not None:
                self.start()
            self.remove_pods()
        except (grpc.RpcError, pytest.fail.Exception) as error:
            log.warning("Pods are ended by force", extra={"cause": str(error)})

    def _end_shims(self) -> None:
        """Kill what still runs with its shims, and remove what is named by the containers' ids."""
        tasks = self.state / "io.containerd.runtime.v2.task" / "k8s.io"
        leftover = self.shims()
        for pid in [child for shim in leftover for child in _descendants(shim)] + leftover:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _eventually(lambda: not self.shims(), STOP_SECONDS, "shims did not end")
        for task in tasks.glob("*"):
            with suppress(OSError):
                Path((task / "address").read_text().removeprefix("unix://")).unlink()
            with suppress(OSError):  # other groups come and go while this looks
                for group in CGROUPS.glob(f"**/k8s.io/{task.name}"):
                    group.rmdir()
            for result in CNI_RESULTS.glob(f"cni-loopback-{task.name}-*"):
                result.unlink(missing_ok=True)

    @property
    def network(self) -> str:
        return f"{NETWORK}-{self.slot}"


async def remove_sandboxes(runtime: CriRuntime, *ids: str) -> None:
    """Stop and remove sandboxes with their containers, all of the runtime's node unless said which.

    Where containerd fails it is asked again, as edged and kubelets do: a container that ends at this very
    moment, or a sandbox that another stops too, fails a stop ("ttrpc: closed", "no such device").
    """
    for each in ids or [found.id for found in await runtime.sandboxes()]:
        async with asyncio.timeout(PATIENCE):
            while not await _is_removed(runtime, each):  # noqa: ASYNC110  the runtime tells nobody
                await asyncio.sleep(0.1)


async def _is_removed(runtime: CriRuntime, sandbox: str) -> bool:
    try:
        await runtime.stop_sandbox(sandbox)
        await runtime.remove_sandbox(sandbox)
    except RuntimeFault as fault:
        log.warning("a sandbox cannot be removed yet", extra={"cause": fault.message})
        return False
    return True


# --- making one -------------------------------------------------------------------------------------


@contextmanager
def running_containerd(
    registry: Registry | None = None, disk_bytes: int = 0
) -> Iterator[Containerd]:
    """Run a containerd for the length of the block, with busybox present; skip where that cannot be.

    With `disk_bytes` its images lie on a disk of their own of that size.
    """
    require_containerd()
    with ExitStack() as stack:
        slot, folder = stack.enter_context(_slot())
        served = stack.enter_context(serving(registry))
        rig = Containerd(folder, served, slot)
        _remove_network(rig.network, rig.bridge)
        _write_settings(rig)
        stack.callback(rig.clean)
        if disk_bytes:
            _mount_disk(folder / "root", disk_bytes)
        rig.start()
        for name in ("pause", "busybox"):
            rig.pull(name)
        yield rig


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    """One containerd for the tests of a module. What a test makes there it removes."""
    with running_containerd() as rig:
        yield rig


def _mount_disk(folder: Path, size: int) -> None:
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True)


def require_containerd() -> None:
    """Skip where containerd cannot run at all; fail where it only was not installed."""
    if os.geteuid() != 0:
        pytest.skip("CONTAINERS ARE NOT TESTED: containerd needs root")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"CONTAINERS ARE NOT TESTED: no namespaces here: {tried.stderr.strip()}")
    if missing := _missing():
        text = f"not installed: {', '.join(missing)}; scripts/debian-packages.sh installs it"
        pytest.fail(text) if shutil.which("apt-get") else pytest.skip(
            f"CONTAINERS ARE NOT TESTED: {text}"
        )


def _missing() -> list[str]:
    found = [
        name
        for name in ("containerd", "runc", "iptables", "ip")
        if shutil.which(name, path=ENVIRONMENT["PATH"]) is None
    ]
    plugins = [] if _plugin_folder() else ["CNI plugins"]
    return found + plugins + ([] if busybox_path() else ["busybox-static"])


def _plugin_folder() -> str | None:
    folders = (Path(each) for each in PLUGIN_FOLDERS)
    return next((str(f) for f in folders if all((f / plugin).exists() for plugin in PLUGINS)), None)


@contextmanager
def _slot() -> Iterator[tuple[int, Path]]:
    """Hold a number that no other process holds, and a folder; the kernel gives the number back."""
    SLOTS.mkdir(exist_ok=True)
    for path in SLOTS.iterdir():
        _sweep(path)
    for number in range(1, 250):
        with (SLOTS / f"{number}").open("a+") as file:
            if not _lock(file):
                continue
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            file.truncate(0)
            file.write(str(folder))
            file.flush()
            yield number, folder
            return
    pytest.fail("all slots are held")


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(slot: Path) -> None:
    """End what a killed test run left in the folder of a number that nobody holds."""
    with slot.open("a+") as file:
        if _lock(file):
            file.seek(0)
            before = file.read().strip()
            if before.startswith(PREFIX) and Path(before).is_dir():
                _end_leftover(Path(before), int(slot.name))


def _end_leftover(folder: Path, number: int) -> None:
    """End a containerd whose test run was killed: nobody holds its number any more."""
    for pid, words in _processes():
        if f"{folder}/config.toml" in words:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    Containerd(folder, Registry(), number).clean(by_force=True)


def _write_settings(rig: Containerd) -> None:
    (rig.folder / "net.d").mkdir()
    (rig.folder / "opt").mkdir()
    kind = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(rig.folder)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (rig.folder / "config.toml").write_text(
        CONFIG.format(
            root=rig.folder / "root",
            state=rig.state,
            socket=rig.socket,
            folder=rig.folder,
            pause=rig.image("pause"),
            plugins=_plugin_folder(),
            snapshotter="native" if kind == "overlayfs" else "overlayfs",
        )
    )
    plugins: list[dict[str, object]] = [
        {
            "type": "bridge",
            "bridge": rig.bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(rig.folder / "addresses"),
                "ranges": [[{"subnet": rig.subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    network = {"cniVersion": "1.0.0", "name": rig.network, "plugins": plugins}
    (rig.folder / "net.d" / "10-test.conflist").write_text(json.dumps(network))


def _remove_groups(top: str) -> None:
    """Remove the cgroups of Pods, deepest first."""
    for root in (CGROUPS / top, *CGROUPS.glob(f"*/{top}")):
        for folder in sorted(root.glob("**/"), reverse=True):
            with suppress(OSError):
                folder.rmdir()


def _remove_network(network: str, bridge: str) -> None:
    """Remove a bridge, the cached results and the address rules of a network by its name."""
    if bridge in {name for _, name in socket.if_nameindex()}:
        subprocess.run(["ip", "link", "delete", bridge], check=True, env=ENVIRONMENT)
    for path in CNI_RESULTS.glob(f"{network}-*"):
        path.unlink(missing_ok=True)
    listed = subprocess.run(
        ["iptables-save", "-t", "nat"], capture_output=True, text=True, check=False, env=ENVIRONMENT
    ).stdout
    chains = set()
    for line in listed.splitlines():
        if line.startswith("-A") and f'name: \\"{network}\\"' in line:
            words = line.split()
            chains.add(words[words.index("-j") + 1] if "-j" in words else words[1])
            _iptables_delete(words[1], line)
    for chain in (
        each for each in chains if each.startswith(("CNI-DN-", "CNI-")) and len(each) > 20
    ):
        for action in ("-F", "-X"):
            subprocess.run(
                ["iptables", "-w", "-t", "nat", action, chain],
                capture_output=True,
                check=False,
                env=ENVIRONMENT,
            )


def _iptables_delete(chain: str, rule: str) -> None:
    """Delete a rule as `iptables-save` printed it; `iptables-restore` reads the same words."""
    text = f"*nat\n{rule.replace(f'-A {chain}', f'-D {chain}', 1)}\nCOMMIT\n"
    subprocess.run(
        ["iptables-restore", "-w", "--noflush"],
        input=text.encode(),
        capture_output=True,
        check=False,
        env=ENVIRONMENT,
    )


# --- mounts -----------------------------------------------------------------------------------------


def mounts_below(folder: Path) -> list[str]:
    """Return the mount points below a folder, deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return sorted((each for each in points if each.startswith(f"{folder}/")), reverse=True)


def unmount_below(folder: Path) -> None:
    """Unmount what is mounted below a folder: what is busy goes when it is no longer."""

    def is_done() -> bool:
        for point in mounts_below(folder):
            subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
        return not mounts_below(folder)

    _eventually(is_done, STOP_SECONDS, f"still mounted: {mounts_below(folder)}")


# --- processes --------------------------------------------------------------------------------------


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                yield int(entry.name), words


def _is_shim(words: list[str]) -> bool:
    return Path(words[0]).name.startswith("containerd-shim")


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


def _eventually(check: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(what)
        time.sleep(0.05)
