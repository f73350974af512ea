"""`twinspan kubeconfig` for users, accounts and files that are there."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.cli.kubeconfigs import kubeconfig
from tests.kube_callers import Caller, bearer, calling
from tests.kube_server import KubeServer, kube_server
from tests.kubectl import Kubectl, find_kubectls

KUBECTLS = find_kubectls()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path / "data") as running:
        yield running


def run(server: KubeServer, *arguments: str, **environment: str) -> Result:
    options = [*arguments, "--data-dir", str(server.folder)]
    return CliRunner().invoke(kubeconfig, options, env=environment)


def config_of(result: Result) -> Any:
    assert result.exit_code == 0, result.output or repr(result.exception)
    return yaml.safe_load(result.stdout)


async def test_a_user_has_a_certificate_of_its_own(server: KubeServer) -> None:
    made = run(server, "--user", "ann", "--group", "dev", "--group", "ops", "--ttl", "8h")
    config = config_of(made)
    user = config["users"][0]
    assert user["name"] == "ann"
    assert config["current-context"] == "ann@twinspan"
    pem = base64.b64decode(user["user"]["client-certificate-data"])
    certificate = x509.load_pem_x509_certificate(pem)
    groups = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [group.value for group in groups] == ["dev", "ops"]
    left = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert 8 * 3_600 <= left.total_seconds() <= 11 * 3_600


@pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`")
async def test_kubectl_acts_as_the_user_of_its_file(server: KubeServer, tmp_path: Path) -> None:
    file = tmp_path / "ann.kubeconfig"
    made = run(server, "--user", "ann", "-n", "kube-system", "-o", str(file))
    assert made.exit_code == 0, made.output
    assert file.stat().st_mode & 0o777 == 0o600
    kubectl = Kubectl(next(iter(KUBECTLS.values())), file, tmp_path)
    assert "ann" in (await kubectl.ok("auth", "whoami")).out
    said = await kubectl.fails("get", "pods")
    assert 'cannot list resource "pods" in API group "" in the namespace "kube-system"' in said.err
    assert (await kubectl.run("auth", "can-i", "list", "pods")).out.strip() == "no"
    own = Kubectl(kubectl.binary, server.kubeconfig, tmp_path)
    await own.ok("create", "clusterrolebinding", "ann", "--clusterrole=view", "--user=ann")
    await kubectl.ok("get", "pods")
    listed = (await kubectl.ok("auth", "can-i", "--list")).out
    assert "configmaps" in listed
    assert "[/healthz]" in listed
    rules = (
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\n"
        "rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n"
    )
    assert "reconciled" in (await own.ok("auth", "reconcile", "-f", "-", stdin=rules)).out


async def test_an_account_has_a_token(server: KubeServer) -> None:
    async with calling(server) as http:
        admin = Caller(http, bearer(server.token))
        path = "/api/v1/namespaces/default/serviceaccounts"
        await admin.ask("POST", path, 201, {"metadata": {"name": "bot"}})
        arguments = ("--token", "bot", "--ttl", "20m", "--server", "https://127.0.0.1:1")
        config = config_of(await asyncio.to_thread(run, server, *arguments))
        assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"
        token = config["users"][0]["user"]["token"]
        who = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        answer = await Caller(http, bearer(token)).ask("POST", who, 201, {})
        assert answer["status"]["userInfo"]["username"] == "system:serviceaccount:default:bot"


async def test_a_kubeconfig_is_put_into_the_one_that_is_there(
    server: KubeServer, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    other = {"name": "other", "cluster": {"server": "https://other"}}
    file.write_text(yaml.safe_dump({"clusters": [other], "current-context": "other", "x": 1}))
    for _ in range(2):
        made = run(server, "--merge", "--context", "mine", KUBECONFIG=str(file))
        assert made.exit_code == 0, made.output
    config = yaml.safe_load(file.read_text())
    assert [each["name"] for each in config["clusters"]] == ["other", "twinspan"]
    assert [each["name"] for each in config["contexts"]] == ["mine"]
    assert (config["current-context"], config["x"]) == ("mine", 1)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("[]")
    assert run(server, "--merge", "-o", str(file)).exception is not None


async def test_an_address_that_the_certificate_does_not_name_is_warned_of(
    server: KubeServer,
) -> None:
    made = run(server, "--server", "https://gateway.example:6443")
    assert "does not name gateway.example" in made.stderr
    assert "warning" not in run(server, "--server", "https://localhost:6443").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--group", "dev"], "--group: needs --user"),
        (["--user", "a", "--token", "b"], "--token: not together with --user"),
        (["--ttl", "1h"], "--ttl: needs --user or --token"),
        (["--user", ""], "--user: expected 1 to 64 characters"),
        (["--user", "CN=a"], "--user: expected 1 to 64 characters"),
        (["--user", "a", "--group", "x" * 65], "--group: expected 1 to 64 characters"),
        (["--token", "a/b/c"], "--token: expected [NAMESPACE/]ACCOUNT"),
    ],
)
async def test_options_that_do_not_fit_are_named(
    server: KubeServer, arguments: list[str], said: str
) -> None:
    made = run(server, *arguments)
    assert made.exit_code == 1
    assert said in str(made.exception)
