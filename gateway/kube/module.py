"""The embedded Kubernetes API server as modules: the objects, and the listener in front of them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from gateway.config.kube import Kube
from gateway.errors import Conflict, Undeliverable
from gateway.kube import podadmission
from gateway.kube.admission import WriteOptions
from gateway.kube.askings import serve_askings
from gateway.kube.audit import AuditLog
from gateway.kube.auth import MASTERS, Authenticator, User
from gateway.kube.bootstrap_policy import install_policy
from gateway.kube.bootstraptokens import BootstrapTokens
from gateway.kube.builtin import DEFINITIONS, builtin_registry, definitions
from gateway.kube.certs import Identity, ensure_identity
from gateway.kube.client import KubeClient, PatchType
from gateway.kube.control.keys import Keys
from gateway.kube.crds import Definitions
from gateway.kube.documents import Documents
from gateway.kube.hooks import Hooks
from gateway.kube.housekeeping import STANDARD_NAMESPACES, Housekeeping
from gateway.kube.http import KubeHttp
from gateway.kube.issuer import identity_documents, issuer_document
from gateway.kube.kubeconfig import admin_kubeconfig, write_private
from gateway.kube.kubeletlogin import kubelet_tls
from gateway.kube.kubelets import DirectKubelets, Kubelets
from gateway.kube.local import LocalClient
from gateway.kube.objects import Objects
from gateway.kube.ownservice import publish
from gateway.kube.podstreams import PodStreams
from gateway.kube.priorities import install_priorities
from gateway.kube.serviceaddresses import SERVICES, ServiceAddresses
from gateway.kube.storage import Storage
from gateway.kube.strategies import table
from gateway.kube.tokenfile import read_tokens
from gateway.kube.usage import Usage, UsageAnswers
from gateway.kube.watch import Key
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints, parse_bind, serve_app
from gateway.store.database import Database

ENDPOINT = "kube.https"
SETTING = "kube.https.bind"
FOLDER = "kube"
KUBECONFIG = "kubeconfig"
INSTALLER = WriteOptions(manager="twinspan", validation="Strict")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound


async def _nothing() -> AsyncIterator[bytes]:
    """The log of a Pod that no node has."""
    none: tuple[bytes, ...] = ()
    for piece in none:
        yield piece


def reachable(address: str) -> str:
    """The address under which this machine reaches a listener, also one that is bound everywhere."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host.strip("[]") in EVERYWHERE else address


class KubeApi:
    """Keeps the objects and serves `kube.https`.

    Shape:  `database` has the schema `kube` and is run by this module; certificates and the administrator's
            kubeconfig live in `data_dir/kube`; `hosts` are further names for the server's certificate.
    """

    name = "kube"

    def __init__(
        self,
        settings: Kube,
        endpoints: Endpoints,
        database: Database,
        metrics: Metrics,
        data_dir: Path,
        *,
        hosts: Iterable[str] = (),
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._database = database
        self._metrics = metrics
        self._folder = data_dir / FOLDER
        bound, _ = parse_bind(settings.https.bind, SETTING)
        self._hosts = (*hosts, *(() if bound in EVERYWHERE else (bound,)))
        registry = builtin_registry()
        storage = Storage(
            database,
            window=settings.watch_window,
            window_bytes=settings.watch_window_bytes,
            buffer=settings.watch_buffer,
        )
        self.objects = Objects(storage, registry)
        self._addresses = ServiceAddresses(settings.service_network, settings.node_ports)
        self.objects.hooks.allot(SERVICES, self._addresses.allot)
        podadmission.register(self.objects.hooks, storage)
        self._documents = Documents(registry)
        self._definitions = Definitions(registry)
        self._definitions.register(self.objects.hooks)
        self._identity: Identity | None = None
        self._kubelets: Kubelets = DirectKubelets(self._kubelet_tls)
        self._audit = AuditLog(settings.audit, metrics)
        self._usage: UsageAnswers | None = None

    def client(self, manager: str) -> KubeClient:
        """A client in this process; `manager` names it in `managedFields`. Works while the module runs."""
        return LocalClient(self.objects, self._documents, manager=manager)

    def reach(self, way: Callable[[Kubelets], Kubelets]) -> None:
        """Put another way to kubelets before those there are; before it runs."""
        self._kubelets = way(self._kubelets)

    def measure(self, usage: Usage, /) -> bool:
        """Serve what nodes and Pods use; before it runs. Always True here."""
        self._usage = UsageAnswers(usage, self.objects.registry)
        return True

    @asynccontextmanager
    async def pod_log(
        self, namespace: str, name: str, query: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A Pod's log as `kubectl logs` gets it, for the length of the block; `query` as the API takes it.

        Errors: NotFound; BadRequest; Undeliverable.
        """
        pod = self.objects.get(self.objects.resource("v1", "pods"), namespace, name).object
        body = await PodStreams(self.objects, self._kubelets).log(pod, query)
        try:
            yield _nothing() if body is None else body
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    def _kubelet_tls(self) -> ssl.SSLContext:
        if self._identity is None:
            raise Undeliverable("the API server is not ready")
        return kubelet_tls(self._identity)

    def keys(self) -> Keys | None:
        """Return what its control loops sign with, None before it runs."""
        accounts, identity = self.objects.accounts, self._identity
        if accounts is None or identity is None:
            return None
        return Keys(identity.authority, accounts.secret_token)

    @property
    def is_well(self) -> bool:
        """True while objects can be written."""
        return not self._database.fault

    def facts(self) -> Mapping[str, str | int | bool]:
        """Return what an operator wants to know."""
        return (
            {} if self.is_well else {"cause": f"kube.db cannot be written: {self._database.fault}"}
        )

    @property
    def hooks(self) -> Hooks:
        """Where others say what may be written."""
        return self.objects.hooks

    def watch_depths(self) -> None:
        """Show the number of objects of each served kind in the metrics."""
        for resource in self.objects.registry:
            key = resource.storage_key
            self._metrics.kube_objects.watch(key, partial(self.objects.storage.count, key))

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until cancelled."""
        identity = await asyncio.to_thread(ensure_identity, self._folder, self._hosts)
        self._identity = identity
        housekeeping = Housekeeping(self.objects)
        storage = self.objects.storage
        storage.listen(self._definitions.on_change)
        storage.listen(housekeeping.on_change)
        storage.listen(self._addresses.on_change)
        async with self._database.running(), storage.running():
            for stored in storage.all(DEFINITIONS):
                self._definitions.install(stored.object)
            for stored in storage.all(SERVICES):
                self._addresses.enter(stored.object)
            await self._install()
            self.watch_depths()
            async with housekeeping.running(), self._audit.running():
                await self._serve(identity, ready)

    async def _serve(self, identity: Identity, ready: Callable[[], None]) -> None:
        tokens = {identity.token: User("kubernetes-admin", (MASTERS,))}
        if self._settings.token_file:
            tokens = await asyncio.to_thread(read_tokens, self._settings.token_file) | tokens
        https = self._settings.https
        documents = self._documents
        accounts = serve_askings(self.objects, identity.account_key)
        bootstrap = BootstrapTokens(self.objects.storage, self.objects.now)
        authenticator = Authenticator(
            tokens,
            (accounts.judge, bootstrap.judge),
            anonymous=self._settings.anonymous,
            now=self.objects.now,
        )
        accounts.others = authenticator.of_token
        documents.fixed.update(identity_documents(accounts))
        front = KubeHttp(
            self.objects,
            documents,
            authenticator,
            self._metrics,
            max_body=https.max_body,
            audit=self._audit,
            kubelets=self._kubelets,
            usage=self._usage,
        )
        async with serve_app(
            self._endpoints,
            ENDPOINT,
            https.bind,
            front.app(),
            setting=SETTING,
            ssl=identity.server_context(),
        ):
            documents.address = self._endpoints.get(ENDPOINT)
            documents.fixed.update(issuer_document(documents.address))
            await publish(self.objects, self._addresses.first, documents.address)
            text = admin_kubeconfig(identity, reachable(documents.address))
            await asyncio.to_thread(write_private, self._folder / KUBECONFIG, text)
            documents.is_ready = True
            ready()
            await asyncio.Event().wait()

    # --- what every start makes sure of -------------------------------------------------------------

    async def _install(self) -> None:
        namespaces = self.objects.resource("v1", "namespaces")
        for name in STANDARD_NAMESPACES:
            if self.objects.storage.get(Key("namespaces", "", name)) is None:
                body: JsonObject = {"metadata": {"name": name}}
                await self.objects.create(namespaces, None, body, INSTALLER)
        await install_priorities(self.objects, INSTALLER)
        for definition in definitions():
            await self._install_definition(definition)
        await install_policy(self.objects)

    async def _install_definition(self, definition: JsonObject) -> None:
        """Create a definition of ours, or bring it up to what this version of Twinspan serves."""
        resource = self.objects.resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
        name = str(table(definition, "metadata")["name"])
        if self.objects.storage.get(Key(DEFINITIONS, "", name)) is None:
            await self.objects.create(resource, None, definition, INSTALLER)
            return
        forced = WriteOptions(manager=INSTALLER.manager, validation="Strict", force=True)
        patch: JsonObject = {"spec": definition["spec"]}
        try:
            await self.objects.patch(resource, None, name, patch, PatchType.MERGE, forced)
        except Conflict:
            return  # it is being deleted
