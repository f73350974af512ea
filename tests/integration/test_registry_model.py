"""The registry against a model of it: random operations, and after each what adapters see."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.errors import (
    Conflict,
    DeviceNotFound,
    Forbidden,
    GatewayDisabled,
    GatewayError,
    PreconditionFailed,
    TenantDisabled,
    TenantNotFound,
    Unauthenticated,
)
from gateway.hono.registry import Registry
from gateway.model.registry import Assertion, DeviceCredential, Tenant
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.store.database import Database

TENANTS, DEVICES, AUTH_IDS = ("t1", "t2", "t3"), ("d1", "d2", "d3"), ("s1", "s2")
ALIASES, ANCHORS, GROUPS = ("t2", "nick"), ("CN=A", "CN=B"), ("g1", "g2")
KINDS = ("psk", "x509-cert")

tenants, devices, auth_ids = map(st.sampled_from, (TENANTS, DEVICES, AUTH_IDS))
versions = st.sampled_from(("none", "right", "wrong"))
Expected = type[GatewayError] | None


@dataclass
class TenantModel:
    version: str
    enabled: bool
    alias: str | None
    group: str | None
    anchors: frozenset[str]
    max_devices: int
    max_credentials: int

    def document(self) -> Any:
        found: Any = {
            "enabled": self.enabled,
            "registration-limits": {
                "max-devices": self.max_devices,
                "max-credentials-per-device": self.max_credentials,
            },
        }
        if self.alias:
            found["alias"] = self.alias
        if self.group:
            found["trust-anchor-group"] = self.group
        if self.anchors:
            found["trusted-ca"] = [_anchor(name) for name in sorted(self.anchors)]
        return found


def _anchor(name: str) -> Any:
    return {
        "subject-dn": name,
        "public-key": "a2V5",
        "not-before": "2020-01-01T00:00:00Z",
        "not-after": "2090-01-01T00:00:00Z",
    }


@dataclass
class DeviceModel:
    version: str
    enabled: bool = True
    via: tuple[str, ...] = ()
    via_groups: tuple[str, ...] = ()
    member_of: tuple[str, ...] = ()
    credentials: dict[tuple[str, str], bool] = field(default_factory=dict)
    credentials_version: str = ""

    def document(self) -> Any:
        found: Any = {"enabled": self.enabled}
        for name, ids in (
            ("via", self.via),
            ("viaGroups", self.via_groups),
            ("memberOf", self.member_of),
        ):
            if ids:
                found[name] = list(ids)
        return found


tenant_models = st.builds(
    TenantModel,
    version=st.just(""),
    enabled=st.sampled_from((True, True, False)),
    alias=st.sampled_from((None, None, *ALIASES)),
    group=st.sampled_from((None, *GROUPS)),
    anchors=st.frozensets(st.sampled_from(ANCHORS)),
    max_devices=st.sampled_from((-1, -1, 1)),
    max_credentials=st.sampled_from((-1, -1, 1)),
)
_ids = st.lists(devices, unique=True, max_size=2).map(tuple)
_groups = st.lists(st.sampled_from(GROUPS), unique=True, max_size=2).map(tuple)
device_models = st.one_of(
    st.builds(
        DeviceModel,
        version=st.just(""),
        enabled=st.sampled_from((True, True, False)),
        via=_ids,
        via_groups=_groups,
        credentials=st.builds(dict),
    ),
    st.builds(DeviceModel, version=st.just(""), member_of=_groups, credentials=st.builds(dict)),
)
credential_sets = st.dictionaries(st.tuples(st.sampled_from(KINDS), auth_ids), st.booleans())


class RegistryMachine(RuleBasedStateMachine):
    """Management calls go to both; their outcomes and all that adapters may ask have to agree."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        database = Database(None, "gateway")
        self.registry = Registry(database, Metrics())
        self.tenants: dict[str, TenantModel] = {}
        self.devices: dict[tuple[str, str], DeviceModel] = {}
        self.run(self.stack.enter_async_context(database.running()))
        self.run(self.stack.enter_async_context(running(self.registry)))

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    def outcome(self, work: Awaitable[Any], expected: Expected) -> Any:
        """Run a call; it has to end as the model says."""
        result: Any = None
        ended: Expected = None
        try:
            result = self.run(work)
        except GatewayError as error:
            ended = type(error)
        assert ended is expected
        return result

    def ask(self, lookup: Callable[..., None], *args: object) -> Any:
        """What a lookup of adapters answers."""

        async def wait() -> Any:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            lookup(*args, future.set_result)
            return await future

        return self.runner.run(wait())

    @initialize()
    def begin_with_a_fleet(self) -> None:
        """Start where most operations mean something."""
        for name in ("t1", "t2"):
            self.create_tenant(name, TenantModel("", True, None, None, frozenset(), -1, -1))
            self.create_device(name, "d1", DeviceModel("", member_of=("g1",)))
            self.create_device(name, "d2", DeviceModel("", via_groups=("g1",)))
            self.update_credentials(name, "d2", {("psk", "s1"): True}, "none")

    # --- tenants

    @rule(name=tenants, model=tenant_models)
    def create_tenant(self, name: str, model: TenantModel) -> None:
        is_free = name not in self.tenants and self.fits(name, model)
        made = self.outcome(
            self.registry.create_tenant(name, model.document()), None if is_free else Conflict
        )
        if made:
            model.version = made[1]
            self.tenants[name] = model

    @rule(name=tenants, model=tenant_models, version=versions)
    def update_tenant(self, name: str, model: TenantModel, version: str) -> None:
        old = self.tenants.get(name)
        expected: Expected = None
        if old is None:
            expected = TenantNotFound
        elif version == "wrong":
            expected = PreconditionFailed
        elif not self.fits(name, model):
            expected = Conflict
        condition = {"none": None, "wrong": "x"}.get(version, old.version if old else "x")
        made = self.outcome(
            self.registry.update_tenant(name, model.document(), condition), expected
        )
        if made:
            model.version = made
            self.tenants[name] = model

    @rule(name=tenants, version=versions)
    def delete_tenant(self, name: str, version: str) -> None:
        old = self.tenants.get(name)
        expected: Expected = None
        if old is None:
            expected = TenantNotFound
        elif version == "wrong":
            expected = PreconditionFailed
        condition = {"none": None, "wrong": "x"}.get(version, old.version if old else "x")
        self.outcome(self.registry.delete_tenant(name, condition), expected)
        if expected is None:
            del self.tenants[name]

    def fits(self, name: str, model: TenantModel) -> bool:
        """True unless id, alias or an authority belongs to another tenant."""
        others = {key: other for key, other in self.tenants.items() if key != name}
        names = set(others) | {o.alias for o in others.values() if o.alias}
        if name in {o.alias for o in others.values()} or (model.alias and model.alias in names):
            return False
        return not any(
            model.anchors & other.anchors and (other.group is None or other.group != model.group)
            for other in others.values()
        )

    # --- devices

    @rule(tenant=tenants, name=devices, model=device_models)
    def create_device(self, tenant: str, name: str, model: DeviceModel) -> None:
        owner = self.tenants.get(tenant)
        count = sum(key[0] == tenant for key in self.devices)
        expected: Expected = None
        if owner is None:
            expected = TenantNotFound
        elif (tenant, name) in self.devices:
            expected = Conflict
        elif owner.max_devices != -1 and count >= owner.max_devices:
            expected = Forbidden
        made = self.outcome(self.registry.create_device(tenant, name, model.document()), expected)
        if made:
            model.version = made[1]
            self.devices[tenant, name] = model
            _, model.credentials_version = self.run(self.registry.read_credentials(tenant, name))

    @rule(tenant=tenants, name=devices, model=device_models, version=versions)
    def update_device(self, tenant: str, name: str, model: DeviceModel, version: str) -> None:
        old = self.devices.get((tenant, name))
        expected: Expected = None
        if tenant not in self.tenants:
            expected = TenantNotFound
        elif old is None:
            expected = DeviceNotFound
        elif version == "wrong":
            expected = PreconditionFailed
        condition = {"none": None, "wrong": "x"}.get(version, old.version if old else "x")
        made = self.outcome(
            self.registry.update_device(tenant, name, model.document(), condition), expected
        )
        if made and old:
            model.version = made
            model.credentials = old.credentials
            model.credentials_version = old.credentials_version
            self.devices[tenant, name] = model

    @rule(tenant=tenants, name=devices, version=versions)
    def delete_device(self, tenant: str, name: str, version: str) -> None:
        old = self.devices.get((tenant, name))
        expected: Expected = None
        if old is None:
            expected = DeviceNotFound
        elif version == "wrong":
            expected = PreconditionFailed
        condition = {"none": None, "wrong": "x"}.get(version, old.version if old else "x")
        self.outcome(self.registry.delete_device(tenant, name, condition), expected)
        if expected is None:
            del self.devices[tenant, name]

    @rule(tenant=tenants)
    def delete_devices(self, tenant: str) -> None:
        own = [key for key in self.devices if key[0] == tenant]
        is_known = bool(own) or tenant in self.tenants
        self.outcome(self.registry.delete_devices(tenant), None if is_known else TenantNotFound)
        for key in own:
            del self.devices[key]

    # --- credentials

    @rule(tenant=tenants, name=devices, wanted=credential_sets, version=versions)
    def update_credentials(
        self, tenant: str, name: str, wanted: dict[tuple[str, str], bool], version: str
    ) -> None:
        owner, device = self.tenants.get(tenant), self.devices.get((tenant, name))
        foreign = {
            key
            for (other, other_name), model in self.devices.items()
            if other == tenant and other_name != name
            for key in model.credentials
        }
        expected: Expected = None
        if owner is None:
            expected = TenantNotFound
        elif device is None:
            expected = DeviceNotFound
        elif version == "wrong":
            expected = PreconditionFailed
        elif owner.max_credentials != -1 and len(wanted) > owner.max_credentials:
            expected = Forbidden
        elif foreign & {(kind, _auth_id(kind, who)) for kind, who in wanted}:
            expected = Conflict
        condition = {"none": None, "wrong": "x"}.get(
            version, device.credentials_version if device else "x"
        )
        body: Any = [
            {
                "type": kind,
                "auth-id": _auth_id(kind, who),
                "enabled": enabled,
                "secrets": [{"key": "a2V5"} if kind == "psk" else {}],
            }
            for (kind, who), enabled in wanted.items()
        ]
        made = self.outcome(
            self.registry.update_credentials(tenant, name, body, condition), expected
        )
        if made and device:
            device.credentials = {(k, _auth_id(k, w)): on for (k, w), on in wanted.items()}
            device.credentials_version = made

    # --- what adapters see

    @invariant()
    def tenants_are_found_by_id_and_alias(self) -> None:
        for name in (*TENANTS, "nick"):
            by_alias = (key for key, model in self.tenants.items() if model.alias == name)
            expected = name if name in self.tenants else next(by_alias, None)
            found = self.ask(self.registry.find_tenant, name)
            if expected is None:
                assert isinstance(found, TenantNotFound)
            else:
                assert isinstance(found, Tenant)
                assert found.tenant_id == expected
                assert found.enabled == self.tenants[expected].enabled

    @invariant()
    def an_authority_leads_to_its_only_tenant(self) -> None:
        for anchor in ANCHORS:
            owners = [key for key, model in self.tenants.items() if anchor in model.anchors]
            found = self.ask(self.registry.find_tenant_by_anchor, anchor)
            if len(owners) == 1:
                assert found.tenant_id == owners[0]
            else:
                assert isinstance(found, TenantNotFound)

    @invariant()
    def devices_are_asserted_as_the_records_say(self) -> None:
        for tenant in TENANTS:
            for name in DEVICES:
                for gateway in (None, "d1", "d2"):
                    found = self.ask(self.registry.assert_device, tenant, name, gateway)
                    expected = self.asserted(tenant, name, gateway)
                    kind = Assertion if expected is None else expected
                    assert type(found) is kind, (tenant, name, gateway, found, expected)

    def asserted(self, tenant: str, name: str, gateway: str | None) -> Expected:
        real = tenant if tenant in self.tenants else None
        if real is None:
            real = next((k for k, m in self.tenants.items() if m.alias == tenant), None)
        if real is None:
            return TenantNotFound
        if not self.tenants[real].enabled:
            return TenantDisabled
        device = self.devices.get((real, name))
        if device is None or not device.enabled:
            return DeviceNotFound
        if gateway is None or gateway == name:
            return None
        via = self.devices.get((real, gateway))
        if via is None or not via.enabled:
            return GatewayDisabled
        is_member = bool(set(via.member_of) & set(device.via_groups))
        return None if gateway in device.via or is_member else Forbidden

    @invariant()
    def credentials_lead_to_their_device(self) -> None:
        for tenant in TENANTS:
            owners = {
                key: (name, enabled)
                for (other, name), model in self.devices.items()
                if other == tenant
                for key, enabled in model.credentials.items()
            }
            for kind in KINDS:
                for who in AUTH_IDS:
                    key = (kind, _auth_id(kind, who))
                    found = self.ask(self.registry.find_credential, tenant, *key)
                    if key not in owners:
                        assert isinstance(found, Unauthenticated)
                        continue
                    assert isinstance(found, DeviceCredential)
                    assert (found.device_id, found.credential.enabled) == owners[key]


def _auth_id(kind: str, who: str) -> str:
    return f"CN={who}" if kind == "x509-cert" else who


TestRegistryAgainstItsModel = RegistryMachine.TestCase
TestRegistryAgainstItsModel.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # each example opens a store: shrinking takes minutes
    suppress_health_check=list(HealthCheck),
)
