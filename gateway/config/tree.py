"""The whole tree of settings; each module is handed its own branch only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.cloud import Cloud
from gateway.config.console import Console
from gateway.config.ditto import Ditto
from gateway.config.edge import Edge
from gateway.config.hono import Hono
from gateway.config.kube import Kube
from gateway.config.observe import Observe


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set."""

    data_dir: Path = Path()
    """Where state lives; see `gateway.config.loading.default_data_dir`."""
    min_free_bytes: int = 16_777_216
    """Bytes of the disk of `data_dir` that stay free (a quarter of a small one): below it what adds to
    things, registry, connections and events is refused with 503, so that deleting still works; 0 for none."""
    credentials_file: str = ""
    """File of users and passwords that somebody else keeps (a mounted Secret), in the form of
    `<data-dir>/credentials.json`; empty: that file, with random passwords made at the first start."""
    demo: bool = False
    """True adds the sample tenant, devices, users, virtual devices and their well-known passwords."""
    insecure: bool = False
    """True allows plain-text and password listeners beyond loopback."""
    hono: Hono = field(default_factory=Hono)
    ditto: Ditto = field(default_factory=Ditto)
    kube: Kube = field(default_factory=Kube)
    cloud: Cloud = field(default_factory=Cloud)
    edge: Edge = field(default_factory=Edge)
    observe: Observe = field(default_factory=Observe)
    console: Console = field(default_factory=Console)
