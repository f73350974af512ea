"""The audit log of the embedded API: what is in it, what is not, and when its file is full."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.config.kube import Kube, KubeAudit, KubeHttps
from gateway.errors import InvalidSetting
from gateway.kube.audit import AuditLog, Entry
from gateway.observe.metrics import Metrics
from tests.kube_callers import Caller, bearer, calling
from tests.kube_server import kube_server

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
SECRETS = "/api/v1/namespaces/default/secrets"


def settings(folder: Path, **audit: Any) -> Kube:
    return Kube(
        https=KubeHttps(bind="127.0.0.1:0"),
        audit=KubeAudit(path=str(folder / "log" / "audit.log"), **audit),
    )


def events(folder: Path) -> Sequence[Any]:
    return [json.loads(line) for line in (folder / "log" / "audit.log").read_text().splitlines()]


async def test_each_request_leaves_who_asked_for_what_and_why_he_might(tmp_path: Path) -> None:
    async with kube_server(tmp_path, settings(tmp_path)) as server, calling(server) as http:
        admin = Caller(http, bearer(server.token))
        await admin.ask("POST", CONFIGMAPS, 201, {"metadata": {"name": "a"}})
        ann = Caller(http, bearer(server.token) | {"Impersonate-User": "ann"})
        await ann.ask("GET", f"{CONFIGMAPS}/a", 403)
        await Caller(http, bearer("wrong")).ask("GET", CONFIGMAPS, 401)
        headers = bearer(server.token) | {"Audit-Id": "mine-7"}
        async with http.get("/healthz", headers=headers) as response:
            assert response.headers["Audit-Id"] == "mine-7"
    assert (tmp_path / "log" / "audit.log").stat().st_mode & 0o077 == 0
    found = events(tmp_path)
    assert [event["stage"] for event in found] == ["RequestReceived", "ResponseComplete"] * 4
    assert {event["kind"] for event in found} == {"Event"}
    assert {event["apiVersion"] for event in found} == {"audit.k8s.io/v1"}
    made, refused, unknown, health = (event for event in found[1::2])
    assert made["verb"] == "create"
    assert made["user"]["username"] == "kubernetes-admin"
    assert made["objectRef"] == {
        "resource": "configmaps",
        "namespace": "default",
        "apiVersion": "v1",
    }
    assert made["responseStatus"]["code"] == 201
    assert made["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert made["auditID"] == found[0]["auditID"]
    assert "requestObject" not in made
    assert refused["impersonatedUser"]["username"] == "ann"
    assert refused["objectRef"]["name"] == "a"
    assert refused["responseStatus"]["reason"] == "Forbidden"
    assert refused["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert unknown["user"] == {}
    assert unknown["responseStatus"]["code"] == 401
    assert (health["auditID"], health["requestURI"]) == ("mine-7", "/healthz")


async def test_bodies_are_logged_on_request_and_secrets_never(tmp_path: Path) -> None:
    wanted = settings(tmp_path, level="RequestResponse")
    async with kube_server(tmp_path, wanted) as server, calling(server) as http:
        admin = Caller(http, bearer(server.token))
        await admin.ask("POST", CONFIGMAPS, 201, {"metadata": {"name": "a"}, "data": {"x": "y"}})
        secret = {"metadata": {"name": "s"}, "stringData": {"password": "hush-hush"}}
        await admin.ask("POST", SECRETS, 201, secret)
        await admin.ask("GET", "/api/v1/secrets", 200)
        accounts = "/api/v1/namespaces/default/serviceaccounts"
        await admin.ask("POST", accounts, 201, {"metadata": {"name": "bot"}})
        answer = await admin.ask("POST", f"{accounts}/bot/token", 201, {})
        token = answer["status"]["token"]
        review = {"spec": {"token": token}}
        await admin.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", 201, review)
    found = events(tmp_path)
    assert found[1]["requestObject"]["data"] == {"x": "y"}
    assert found[1]["responseObject"]["metadata"]["uid"]
    text = (tmp_path / "log" / "audit.log").read_text()
    assert "hush-hush" not in text
    assert "aHVzaC1odXNo" not in text
    assert token not in text
    assert server.token not in text


async def test_a_watch_is_logged_when_it_begins(tmp_path: Path) -> None:
    async with kube_server(tmp_path, settings(tmp_path)) as server, calling(server) as http:
        admin = Caller(http, bearer(server.token))
        await admin.ask("GET", f"{CONFIGMAPS}?watch=1&timeoutSeconds=1", 200)
    stages = [event["stage"] for event in events(tmp_path) if event["verb"] == "watch"]
    assert stages == ["RequestReceived", "ResponseStarted", "ResponseComplete"]


async def test_a_full_file_is_renamed_and_the_oldest_go(tmp_path: Path) -> None:
    wanted = settings(tmp_path, max_size=2_000, max_backups=2)
    async with kube_server(tmp_path, wanted) as server, calling(server) as http:
        admin = Caller(http, bearer(server.token))
        for _ in range(12):
            await admin.ask("GET", CONFIGMAPS, 200)
    files = sorted((tmp_path / "log").iterdir())
    assert len(files) == 3
    assert all(file.stat().st_size <= 2_000 for file in files)


async def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    wanted = settings(tmp_path, queue=0)
    async with kube_server(tmp_path, wanted) as server, calling(server) as http:
        await Caller(http, bearer(server.token)).ask("GET", CONFIGMAPS, 200)
        dropped = server.api._metrics.kube_audit_dropped._value.get()
    assert dropped == 2
    assert events(tmp_path) == []


async def test_without_a_log_answers_have_their_id(tmp_path: Path) -> None:
    async with (
        kube_server(tmp_path) as server,
        calling(server) as http,
        http.get("/healthz", headers={"Audit-Id": "not good"}) as response,
    ):
        assert len(response.headers["Audit-Id"]) == 36


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(InvalidSetting, match=r"kube\.audit\.level: expected one of"):
        AuditLog(KubeAudit(path="x", level="Everything"), Metrics())


async def test_what_waits_when_the_log_is_stopped_is_written(tmp_path: Path) -> None:
    log = AuditLog(settings(tmp_path).audit, Metrics())
    entry = Entry("id", "/healthz", "get", None, [], "tester", datetime.now(UTC))

    waits = asyncio.Event()

    async def until_stopped() -> None:
        async with log.running():
            log.add(entry, "RequestReceived")
            waits.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(until_stopped())
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event["stage"] for event in events(tmp_path)] == ["RequestReceived"]
