"""What each namespace has: the service account `default`, and the certificate of who signs for the API.

Both come back when somebody deletes them. Source: Kubernetes, "Managing Service Accounts"; the ConfigMap
`kube-root-ca.crt`.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import Forbidden, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import Mirror
from gateway.kube.control.pods_of import is_namespace_ending
from gateway.kube.informer import Change
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part
from gateway.wire.kube.podstate import is_deleting
from gateway.wire.kube.status import AlreadyExists

NAMESPACES = "v1", "namespaces"
ACCOUNT = "default"
ROOT_CERTIFICATE = "kube-root-ca.crt"
DESCRIPTION = "kubernetes.io/description"
CERTIFICATE_NOTE = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such"
    " as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across"
    " distributions of Kubernetes clusters."
)


class Furnisher:
    """Keeps one object of a name in each namespace that is not being deleted.

    Shape:  `wanted` makes it (None: not now); what it says under `data` is kept so.
    """

    def __init__(
        self, context: Context, plural: str, name: str, wanted: Callable[[], JsonObject | None]
    ) -> None:
        self._kube = context.kube
        self._plural = plural
        self._name = name
        self._wanted = wanted
        self._namespaces = context.mirrors.of(*NAMESPACES)
        self._held: Mirror = context.mirrors.of("v1", plural)
        self._loop: Loop[str] = Loop(self._work)
        self._namespaces.on_change(lambda change: self._loop.poke(change.key[1]))
        self._held.on_change(self._on_change)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    def _on_change(self, change: Change) -> None:
        if change.key[1] == self._name:
            self._loop.poke(change.key[0])

    async def _work(self, namespace: str) -> None:
        known, wanted = self._namespaces.get(None, namespace), self._wanted()
        if known is None or is_deleting(known) or wanted is None:
            return
        held = self._held.get(namespace, self._name)
        try:
            if held is None:
                self._held.put(await self._kube.create("v1", self._plural, namespace, wanted))
            elif held.get("data") != wanted.get("data") and "data" in wanted:
                await self._repair(namespace, held, wanted)
        except AlreadyExists:
            return  # the mirror is late: its news brings us back here
        except (NotFound, Forbidden) as error:
            if isinstance(error, Forbidden) and not is_namespace_ending(error):
                raise

    async def _repair(self, namespace: str, held: JsonObject, wanted: JsonObject) -> None:
        metadata: JsonObject = {
            **part(held, "metadata"),
            "annotations": {
                **part(held, "metadata", "annotations"),
                **part(wanted, "metadata", "annotations"),
            },
        }
        body: JsonObject = {**wanted, "metadata": metadata}
        self._held.put(await self._kube.update("v1", self._plural, namespace, body))


def service_accounts(context: Context) -> Furnisher:
    """The controller that gives each namespace its service account."""
    body: JsonObject = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": ACCOUNT},
    }
    return Furnisher(context, "serviceaccounts", ACCOUNT, lambda: body)


def root_certificates(context: Context) -> Furnisher:
    """The controller that puts the certificate of the API's authority into each namespace."""

    def wanted() -> JsonObject | None:
        keys = context.keys()
        if keys is None:
            return None
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": ROOT_CERTIFICATE,
                "annotations": {DESCRIPTION: CERTIFICATE_NOTE},
            },
            "data": {"ca.crt": keys.authority.certificate.decode()},
        }

    return Furnisher(context, "configmaps", ROOT_CERTIFICATE, wanted)
