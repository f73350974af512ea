"""What `PodConfigs` is built of: folders, cgroups and facts of this machine, by what is set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from edge.pods.cgrouptrees import Tree, driver_of, find_tree
from edge.pods.configs import Folders, NodeFacts
from edge.pods.podfields import Amounts
from edge.pods.podresources import Machine, page_size
from edge.pods.resolvconf import Cluster
from gateway.config.edge_workloads import Workloads
from gateway.model.json import JsonObject

CONTAINERD: Final = Path("/etc/containerd/config.toml")
HUGE_PAGES: Final = Path("/sys/kernel/mm/hugepages")
OWN_GROUPS: Final = Path("/proc/self/cgroup")


def cgroup_tree(workloads: Workloads, containerd: Path = CONTAINERD) -> Tree | None:
    """Return the tree that Pods' groups are made in, None where there is none or none is wanted."""
    if not workloads.cgroup_root:
        return None
    try:
        config = containerd.read_text(errors="replace")
    except OSError:
        config = ""
    return find_tree(driver_of(workloads.cgroup_driver, config), workloads.cgroup_root)


def machine_of(tree: Tree | None, huge_pages: Path = HUGE_PAGES, own: Path = OWN_GROUPS) -> Machine:
    """Return what of this machine decides how containers are limited."""
    return Machine(
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        page_sizes=_page_sizes(huge_pages),
        is_unified=tree is not None and tree.version == 2,
        has_swap=tree is not None and tree.version == 2 and _knows_swap(tree, own),
    )


def _page_sizes(folder: Path) -> tuple[str, ...]:
    """Folders are named `hugepages-2048kB`."""
    names = sorted(each.name for each in folder.glob("hugepages-*kB")) if folder.is_dir() else []
    return tuple(page_size(name.replace("kB", "Ki")) for name in names)


def _knows_swap(tree: Tree, own: Path) -> bool:
    """The file is in no root: this process's own group is looked at."""
    try:
        group = own.read_text().strip().rpartition("::")[2]
    except OSError:
        return False
    return (tree.mounts[""] / group.lstrip("/") / "memory.swap.max").exists()


def folders_of(workloads: Workloads, folder: Path) -> Folders:
    """Return where Pods' things are kept; `folder` is EdgeCore's own."""
    profiles = workloads.seccomp_profiles
    return Folders(
        pods=Path(workloads.root) if workloads.root else folder / "pods",
        logs=Path(workloads.logs),
        profiles=Path(profiles) if profiles else folder / "seccomp",
    )


def facts_of(
    workloads: Workloads,
    tree: Tree | None,
    *,
    host_ips: Callable[[], tuple[str, ...]],
    allocatable: Callable[[], Amounts],
    services: Callable[[], Iterable[JsonObject]] = tuple,
    servers: Callable[[], tuple[str, ...]] = tuple,
) -> NodeFacts:
    """Return what Pods are told of their node.

    Shape:  `tree` is `cgroup_tree(workloads)`; `servers` of the cluster's DNS, none while nobody answers.
    """
    machine = machine_of(tree)
    return NodeFacts(
        machine=lambda: machine,
        host_ips=host_ips,
        allocatable=allocatable,
        cluster=lambda: Cluster(servers=servers(), domain=workloads.cluster_domain),
        services=services,
    )
