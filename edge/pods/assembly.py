"""Puts edged's rooms together; imported only where Pods run (see `edge.pods.build`)."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable
from pathlib import Path

from edge.clock import now_ms
from edge.hub import LinkListener
from edge.kubeletaccess import KubeletToken
from edge.pods.admission import Admission, kernel_of
from edge.pods.build import Ground, Pods
from edge.pods.cgroups import Cgroups
from edge.pods.configbuild import cgroup_tree, facts_of, folders_of
from edge.pods.configs import NodeFacts, PodConfigs
from edge.pods.cri import CriRuntime
from edge.pods.edged import Edged
from edge.pods.eviction import Evictions
from edge.pods.health import RuntimeHealth
from edge.pods.hooks import LifecycleHooks
from edge.pods.housekeeping import build_images
from edge.pods.kubeletserver import KubeletServer
from edge.pods.nodecopy import NodeCopy
from edge.pods.nodeinfo import NodeInfo
from edge.pods.objects import KINDS, PodObjects
from edge.pods.oomwatch import OomWatch
from edge.pods.parts import Parts
from edge.pods.podfields import Amounts
from edge.pods.podresources import qos_of
from edge.pods.podspec import Pod
from edge.pods.pressure import read_thresholds
from edge.pods.probers import Probers
from edge.pods.probes import PodProbes
from edge.pods.recorder import EventRecorder
from edge.pods.relist import Relist
from edge.pods.staticpods import StaticPods
from edge.pods.statsource import Places, PodStats
from edge.pods.statuses import Statuses
from edge.pods.volumecontents import NodeFacts as VolumeFacts
from edge.pods.volumes import PodVolumes
from gateway.runtime.module import Module

log = logging.getLogger(__name__)


class _Rooms:
    """One node's rooms, made in the order in which they need each other."""

    def __init__(self, ground: Ground, endpoint: str) -> None:
        self.ground = ground
        settings, node = ground.settings, ground.node
        self.folders = folders_of(settings, ground.folder)
        self.runtime = CriRuntime(endpoint, node)
        self.health = RuntimeHealth(self.runtime)
        self.relist = Relist(self.runtime)
        self.recorder = EventRecorder(node, ground.hub, ground.metrics)
        self.statuses = Statuses(ground.api, ground.store, ground.metrics)
        self.copy = NodeCopy(node, ground.meta, lambda: ground.machine.stored)
        self.oom = OomWatch(self.recorder)
        self.thresholds = read_thresholds(
            settings.eviction_hard,
            settings.eviction_soft,
            settings.eviction_soft_grace,
            settings.eviction_minimum_reclaim,
        )
        self.node = self._node_info()
        ground.machine.pods = self.node
        self.objects = PodObjects(ground.api)
        for kind in KINDS:
            ground.meta.on_kind(kind, self.objects)
        self.volumes = PodVolumes(
            self.folders.pods, ground.api, self.objects, self._volume_facts(), self.recorder
        )
        self.tree = cgroup_tree(settings)
        self.cgroups = Cgroups(self.tree, pids=settings.pod_pids)
        self.configs = PodConfigs(
            folders=self.folders,
            facts=self._facts(),
            objects=self.objects,
            volumes=self.volumes,
            cgroups=self.cgroups,
            recorder=self.recorder,
            image=self.runtime.image,
        )
        self.images = build_images(
            settings, self.runtime, self.objects, self.recorder, lambda: self.edged.uids()
        )
        self.probes = PodProbes(
            Probers(self.runtime, ground.address), self.recorder, self._kick, self.statuses.known
        )
        self.admission = Admission(
            node,
            lambda: ground.machine.node(now_ms()),
            self.recorder,
            stored=lambda: self.copy.node,
            first=(lambda pod: self.evictions.admit(pod),),
            kernel=kernel_of(platform.release()),
            allowed_sysctls=settings.allowed_unsafe_sysctls,
        )
        self.edged = Edged(ground.meta, ground.store, self._parts())
        self.admission.view = self.edged
        self.static = self._static_pods()
        self.volumes.kick = self.edged.kick
        self.stats = self._stats()
        self.evictions = self._evictions()

    # --- single rooms -------------------------------------------------------------------------

    def _static_pods(self) -> list[StaticPods]:
        path, ground = self.ground.settings.manifests, self.ground
        if not path:
            return []
        static = StaticPods(
            ground.node,
            Path(path),
            ground.api,
            self.recorder,
            self.statuses,
            take=self.edged.set_static,
            node_uid=lambda: self.copy.uid,
        )
        static.view = self.edged
        self.edged.listen(static.pod_seen)
        return [static]

    def _node_info(self) -> NodeInfo:
        settings = self.ground.settings
        return NodeInfo(
            self.ground.node,
            self.runtime,
            self.health,
            self.recorder,
            folder=self.folders.pods,
            max_pods=settings.max_pods,
            reserved=(settings.system_reserved, settings.kube_reserved),
            thresholds=self.thresholds,
            pressures=lambda: self.evictions.pressures(),
            kick=self.ground.kick,
        )

    def _volume_facts(self) -> VolumeFacts:
        machine = self.ground.machine
        return VolumeFacts(
            name=self.ground.node, allocatable=self._allocatable, labels=lambda: machine.labels
        )

    def _allocatable(self) -> Amounts:
        told = self.node.allocatable
        return {key: value for key, value in told.items() if isinstance(value, str | int | float)}

    def _facts(self) -> NodeFacts:
        return facts_of(
            self.ground.settings,
            self.tree,
            host_ips=self._host_ips,
            allocatable=self._allocatable,
            services=self.ground.services,
            servers=self.ground.dns_servers,
        )

    def _host_ips(self) -> tuple[str, ...]:
        return (self.ground.address(),)

    def _kick(self, uid: str) -> None:
        self.edged.kick(uid)

    def _parts(self) -> Parts:
        return Parts(
            runtime=self.runtime,
            relist=self.relist,
            health=self.health,
            configs=self.configs,
            volumes=self.volumes,
            images=self.images.images,
            hooks=LifecycleHooks(self.runtime, self.recorder),
            probes=self.probes,
            statuses=self.statuses,
            recorder=self.recorder,
            admit=self.admission,
            room=self.admission.room,
            host_ips=self._host_ips,
            oom_killed=self.oom.killed,
            sweep=self._sweep,
        )

    async def _sweep(self, uids: Iterable[str]) -> None:
        known = list(uids)
        await self.configs.sweep(known)  # first: it knows the Pods by their folders, which go now
        for uid in await self.volumes.remove_orphans(known):
            log.info("volumes of a Pod that is no more were removed", extra={"uid": uid})

    def _stats(self) -> PodStats:
        return PodStats(
            self.ground.node,
            self.runtime,
            self.edged.pods,
            places=Places(self.folders.pods, self.folders.logs),
            tree=self.tree,
            group_of=self._group_of,
            probes=self._probe_totals,
            on_kills=self.oom.counted,
        )

    def _evictions(self) -> Evictions:
        ground = self.ground
        return Evictions(
            self.stats,
            self.edged,
            self.recorder,
            self.thresholds,
            metrics=ground.metrics,
            reclaim=self._reclaim,
            kick=ground.kick,
            interval=ground.settings.eviction_interval,
        )

    async def _reclaim(self) -> None:
        """Free what no Pod uses."""
        await self.images.housekeeping.collect_containers()
        await self.images.collector.free_all()

    def _probe_totals(self) -> dict[tuple[str, ...], int]:
        return dict(self.probes.totals().items())

    def _group_of(self, pod: Pod) -> str:
        return self.tree.pod(qos_of(pod), pod.uid) if self.tree is not None else ""

    def kubelet(self) -> KubeletServer:
        ground = self.ground
        return KubeletServer(
            ground.settings,
            ground.node,
            ground.endpoints,
            KubeletToken(ground.folder),
            self.edged,
            self.runtime,
            ground.metrics,
            self.stats,
        )


def assemble(ground: Ground, endpoint: str) -> Pods:
    """Build all rooms. Errors: InvalidSetting."""
    rooms = _Rooms(ground, endpoint)
    listeners: list[LinkListener] = [rooms.recorder, rooms.statuses, rooms.volumes, *rooms.static]
    modules: list[Module] = [
        rooms.runtime,
        rooms.recorder,
        rooms.statuses,
        rooms.volumes,
        rooms.probes,
        rooms.copy,
        *rooms.static,
        rooms.edged,
        rooms.node,
        rooms.evictions,
        rooms.oom,
        rooms.kubelet(),
        rooms.images.housekeeping,
    ]
    return Pods(
        modules=modules,
        listeners=listeners,
        view=rooms.edged,
        runtime=rooms.runtime,
        health=rooms.health,
        images=rooms.images.jobs,
        revoked=rooms.edged.revoked,
    )
