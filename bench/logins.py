"""How fast devices are recognised: lookups, passwords, certificates, tokens, each beside its ceiling.

Lookups and remembered passwords are compared with a dict (the least that they could cost), passwords that
have to be hashed with bare bcrypt in as many threads, the others with the bare check of one signature.
Run: `python -m bench.logins [--seconds 1.0] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import bcrypt
import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.hono.authentication import DeviceAuthenticator
from gateway.hono.passwords import PasswordPool
from gateway.hono.registry import Registry
from gateway.model.login import Login, TlsPeer
from gateway.model.message import Adapter, Principal
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.runtime.passwords import THREADS
from gateway.store.database import Database
from tests.device_pki import Holder, a_key, issue, public_der
from tests.hono_rig import until

DEVICES = 1_000
COST = 10
HASHES = 40
BATCH = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was done, how often a second, and its ceiling."""

    what: str
    per_second: float
    ceiling: str
    ceiling_per_second: float

    @property
    def ratio(self) -> float:
        return self.per_second / self.ceiling_per_second


def rate(work: Callable[[int], object], seconds: float) -> float:
    """Return how often a second `work` runs; its argument counts up."""
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        for at in range(done, done + BATCH):
            work(at)
        done += BATCH
    return done / spent


def nothing(_found: object) -> None:
    """Take an answer."""


async def fill(registry: Registry, authority: Holder, key: ec.EllipticCurvePrivateKey) -> None:
    """Register the tenant and its devices: each with a hashed password; the first with all kinds."""
    await registry.create_tenant("acme", {"trusted-ca": [authority.anchor(id="a")]})
    hashed = bcrypt.hashpw(b"pw", bcrypt.gensalt(COST, prefix=b"2a")).decode()
    secret = {"pwd-hash": hashed, "hash-function": "bcrypt"}
    for at in range(DEVICES):
        await registry.create_device("acme", f"d{at}", {})
        body: Any = [{"type": "hashed-password", "auth-id": f"s{at}", "secrets": [secret]}]
        if not at:
            public = {"key": public_der(key), "algorithm": "EC"}
            body.append({"type": "rpk", "auth-id": "s0", "secrets": [public]})
            body.append({"type": "x509-cert", "auth-id": "CN=d0", "secrets": [{}]})
        await registry.update_credentials("acme", f"d{at}", body, None)


async def lookups(registry: Registry, seconds: float) -> list[Row]:
    """Measure what adapters ask, from memory and from the store."""
    names = [f"d{at}" for at in range(DEVICES)]
    table = {("acme", name): name for name in names}
    bare = rate(lambda at: nothing(table[("acme", names[at % DEVICES])]), seconds)
    began = time.perf_counter()
    answers: list[object] = []
    for name in names:
        registry.assert_device("acme", name, None, answers.append)
    await until(lambda: len(answers) >= DEVICES)
    cold = DEVICES / (time.perf_counter() - began)

    def ask(at: int) -> None:
        registry.assert_device("acme", names[at % DEVICES], None, nothing)

    return [
        Row("device asserted, known", rate(ask, seconds), "dict", bare),
        Row("device asserted, read", cold, "dict", bare),
    ]


async def passwords(authenticator: DeviceAuthenticator, seconds: float) -> list[Row]:
    """Measure logins by password, remembered ones and such that have to be hashed."""
    answers: list[Principal | object] = []
    began = time.perf_counter()
    for at in range(HASHES):
        authenticator.check_password(f"s{at}@acme", b"pw", Adapter.MQTT, answers.append)
    await until(lambda: len(answers) >= HASHES)
    assert all(isinstance(answer, Principal) for answer in answers)
    hashed = HASHES / (time.perf_counter() - began)
    table = {(f"s{at}@acme", b"pw"): at for at in range(HASHES)}
    names = [f"s{at}@acme" for at in range(HASHES)]
    bare = rate(lambda at: nothing(table[(names[at % HASHES], b"pw")]), seconds)

    def ask(at: int) -> None:
        authenticator.check_password(names[at % HASHES], b"pw", Adapter.MQTT, nothing)

    return [
        Row("password, hashed", hashed, f"bcrypt, {THREADS} threads", bare_bcrypt()),
        Row("password, remembered", rate(ask, seconds), "dict", bare),
    ]


def bare_bcrypt() -> float:
    """Return how many passwords bcrypt alone checks in a second."""
    hashed = bcrypt.hashpw(b"pw", bcrypt.gensalt(COST, prefix=b"2a"))
    with ThreadPoolExecutor(THREADS) as threads:
        began = time.perf_counter()
        list(threads.map(lambda _at: bcrypt.checkpw(b"pw", hashed), range(HASHES)))
        return HASHES / (time.perf_counter() - began)


def signatures(
    registry: Registry, authority: Holder, key: ec.EllipticCurvePrivateKey, seconds: float
) -> list[Row]:
    """Measure logins by certificate and token: such that have to be checked, and remembered ones."""
    device = issue("CN=d0", authority)
    now = int(time.time())
    claims = {"aud": "hono-adapter", "tid": "acme", "sub": "s0", "iat": now, "exp": now + 3_600}
    token = jwt.encode(claims, key, "ES256")
    signed = device.certificate
    public = authority.key.public_key()

    def bare(_at: int) -> None:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(signed.signature, signed.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))

    ceiling = rate(bare, seconds)
    rows = []
    for what, login in (
        ("certificate", Login(peer=TlsPeer(device.der))),
        ("token", Login(token=token)),
    ):
        authenticator = DeviceAuthenticator(registry)

        def first(_at: int, authenticator: Any = authenticator, login: Login = login) -> None:
            authenticator._known.forget(lambda _known: True)
            authenticator.check_login(login, Adapter.MQTT, nothing)

        def again(_at: int, authenticator: Any = authenticator, login: Login = login) -> None:
            authenticator.check_login(login, Adapter.MQTT, nothing)

        rows.append(Row(f"{what}, first", rate(first, seconds), "one ECDSA check", ceiling))
        rows.append(Row(f"{what}, remembered", rate(again, seconds), "one ECDSA check", ceiling))
    return rows


async def warm(registry: Registry) -> None:
    """Bring into memory what the measured logins ask for."""
    answers: list[object] = []
    registry.find_tenant("acme", answers.append)
    registry.find_tenant_by_anchor("CN=CA", answers.append)
    for at in range(HASHES):
        registry.find_credential("acme", "hashed-password", f"s{at}", answers.append)
    registry.find_credential("acme", "x509-cert", "CN=d0", answers.append)
    registry.find_credential("acme", "rpk", "s0", answers.append)
    await until(lambda: len(answers) >= HASHES + 4)


async def measure(seconds: float) -> list[Row]:
    """Measure everything on one registry in memory."""
    database = Database(None, "gateway")
    registry = Registry(database, Metrics(), passwords=PasswordPool())
    authority, key = issue("CN=CA"), a_key()
    async with database.running(), running(registry):
        await fill(registry, authority, key)
        rows = await lookups(registry, seconds)
        await warm(registry)
        rows += await passwords(DeviceAuthenticator(registry), seconds)
        rows += signatures(registry, authority, key, seconds)
    return rows


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments.seconds))
    if arguments.json:
        print(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows]))
        return
    for row in rows:
        print(
            f"{row.what:<26} {row.per_second:>12,.0f}/s   {row.ceiling:<20}"
            f" {row.ceiling_per_second:>12,.0f}/s   ratio {row.ratio:.3f}"
        )


if __name__ == "__main__":
    main()
