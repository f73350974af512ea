"""What CloudCore's rooms need of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

from cloud.references import Reference
from gateway.errors import Undeliverable
from gateway.kube.kubelets import ByteStream, Headers
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.tunnel import FrameType


class Leadership(Protocol):
    """Which of several CloudCores of one cluster writes things from Devices."""

    @property
    def leads(self) -> bool:
        """True while this one does."""

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Tell `listener` when this CloudCore begins (True) or ends (False) to lead; before `run`."""


class PodsOfNodes(Protocol):
    """The Pods of edge nodes, from memory. Objects are shared: read them, never change them."""

    def pods(self, node: str) -> Iterable[JsonObject]:
        """Return the Pods bound to a node."""

    def uses(self, node: str, reference: Reference, namespace: str) -> bool:
        """True when a Pod of this namespace on the node names the object."""

    def service_accounts(self, node: str) -> frozenset[tuple[str, str]]:
        """Return namespace and name of the ServiceAccounts that the node's Pods run as."""

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Tell `listener` the node whose Pods changed; before `run`. Calls are short and never raise."""


class KubeletRefused(Undeliverable):
    """A kubelet of ours answered with an error; `answered` is its status."""

    def __init__(self, answered: int, said: str) -> None:
        super().__init__(said)
        self.answered = answered


class NodeStreams(Protocol):
    """Requests to the kubelets of edge nodes through the stream tunnel."""

    def is_connected(self, node: str) -> bool:
        """True while the node's tunnel is open here."""

    def fetch(
        self, node: str, kind: FrameType, path: str, query: str, headers: Headers
    ) -> AsyncIterator[bytes]:
        """Yield the body of a GET (logs, metrics); status and headers do not travel.

        Errors: Undeliverable when the node has no tunnel here, or it broke; KubeletRefused.
        """

    async def upgrade(
        self, node: str, kind: FrameType, method: str, path: str, query: str, headers: Headers
    ) -> ByteStream:
        """Open exec or attach; the first bytes read are the kubelet's answer with its head.

        Errors: Undeliverable when the node has no tunnel here.
        """
