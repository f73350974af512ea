"""`twinspan kubeconfig`: ways into the embedded Kubernetes API, for its administrator and for others."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.cloud import duration, kubeconfig_file
from gateway.cli.options import data_dir_option
from gateway.errors import InvalidSetting
from gateway.model.json import JsonObject

if TYPE_CHECKING:
    from gateway.runtime.certificates import Pair

MAX_NAME = 64
"""Characters of a user's or group's name in a certificate (X.520)."""
YEAR = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who is to get in, and how. Shape: neither `user` nor `account`: the administrator."""

    user: str | None
    groups: tuple[str, ...]
    account: str | None
    ttl: str | None
    server: str | None
    namespace: str
    context: str
    cluster: str


@click.command(short_help="Print a kubeconfig of the embedded API.")
@click.option(
    "--user",
    metavar="NAME",
    help="Make a client certificate for a user of this name, with no rights.",
)
@click.option(
    "--group", "groups", metavar="GROUP", multiple=True, help="A group of --user; may be repeated."
)
@click.option(
    "--token",
    "account",
    metavar="[NAMESPACE/]ACCOUNT",
    help="Ask the running API for a token of this ServiceAccount.",
)
@click.option(
    "--ttl",
    metavar="TIME",
    help="How long certificate or token are good, e.g. 8h, 30d.  [default: 365d; a token: 1h]",
)
@click.option(
    "--server", metavar="URL", help="Address that the kubeconfig names instead of this machine's."
)
@click.option(
    "-n", "--namespace", default="", metavar="NAME", help="Namespace of the kubeconfig's context."
)
@click.option("--context", default="", metavar="NAME", help="Its name.  [default: USER@CLUSTER]")
@click.option(
    "--cluster",
    default="twinspan",
    show_default=True,
    metavar="NAME",
    help="The cluster's name in it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write this file, readable by you alone, instead of printing.",
)
@click.option(
    "--merge",
    is_flag=True,
    help="Put it into --output, $KUBECONFIG or ~/.kube/config and make it the current context.",
)
@data_dir_option
def kubeconfig(
    user: str | None,
    groups: tuple[str, ...],
    account: str | None,
    ttl: str | None,
    server: str | None,
    namespace: str,
    context: str,
    cluster: str,
    output: Path | None,
    merge: bool,
    data_dir: Path | None,
) -> None:
    """Print a kubeconfig of the embedded Kubernetes API.

    Without --user or --token it is the administrator's, who may do everything. A user made with --user may do
    what Roles and bindings give to the user or to its groups, and nothing else:

    \b
    twinspan kubeconfig > kubeconfig
    twinspan kubeconfig --user jane --group dev -o jane.kubeconfig
    kubectl create rolebinding dev --clusterrole=edit --group=dev
    twinspan kubeconfig --token robots/deployer --ttl 8h -n robots
    twinspan kubeconfig --merge

    Certificates are signed with the authority in the data directory; they cannot be taken back before they
    end: keep --ttl short, or bind rights to groups that you can unbind. Names may not be empty, hold `=`, or
    be longer than 64 characters.

    Exit status: 0; 1 where the API never ran on the data directory, is not running (--token) or refuses, and
    for options that do not fit.
    """
    wanted = Wanted(user, groups, account, ttl, server, namespace, context, cluster)
    check(wanted)
    config = make(wanted, kubeconfig_file(data_dir))
    if server is not None:
        _warn_of_name(server, kubeconfig_file(data_dir).parent)
    _put(config, output, merge=merge)


def check(wanted: Wanted) -> None:
    """Errors: InvalidSetting, naming the option."""
    if wanted.groups and wanted.user is None:
        raise InvalidSetting("--group: needs --user")
    if wanted.user is not None and wanted.account is not None:
        raise InvalidSetting("--token: not together with --user")
    if wanted.ttl is not None and wanted.user is None and wanted.account is None:
        raise InvalidSetting("--ttl: needs --user or --token")
    if wanted.account is not None:
        _split(wanted.account)
    names = [("--user", wanted.user), *(("--group", group) for group in wanted.groups)]
    for option, name in names:
        if name is not None and (not name or len(name) > MAX_NAME or "=" in name):
            raise InvalidSetting(
                f"{option}: expected 1 to {MAX_NAME} characters without `=`, got {name!r}"
            )


def make(wanted: Wanted, admin_file: Path) -> JsonObject:
    """Return the kubeconfig. Errors: InvalidSetting; those of the API for a token."""
    from gateway.kube import kubeconfig as configs  # certificates: heavy, for this alone

    admin = configs.read_config(admin_file)
    folder = admin_file.parent
    server = wanted.server or _server_of(admin)
    client, token = _credentials(wanted, folder, admin_file)
    user = wanted.user or _account_user(wanted.account) or "kubernetes-admin"
    return configs.document(
        server,
        (folder / "ca.crt").read_bytes(),
        client=client,
        token=token,
        user=user,
        cluster=wanted.cluster,
        context=wanted.context,
        namespace=wanted.namespace,
    )


def _credentials(wanted: Wanted, folder: Path, admin_file: Path) -> tuple[Pair | None, str | None]:
    from gateway.runtime.certificates import Pair, issue, kept

    if wanted.account is not None:
        seconds = duration(wanted.ttl) if wanted.ttl else 3_600
        return None, asyncio.run(_token(admin_file, wanted.account, int(seconds)))
    if wanted.user is None:
        return Pair((folder / "admin.crt").read_bytes(), (folder / "admin.key").read_bytes()), None
    authority = kept(folder, "ca")
    if authority is None:
        raise InvalidSetting(f"{folder}: the authority's key is not there")
    seconds = duration(wanted.ttl) if wanted.ttl else YEAR
    return issue(authority, wanted.user, groups=wanted.groups, seconds=seconds), None


async def _token(admin_file: Path, account: str, seconds: int) -> str:
    """Ask for a token. Errors: those of the API."""
    from gateway.kube.remote import connect

    namespace, name = _split(account)
    body: JsonObject = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {},
        "spec": {"expirationSeconds": seconds},
    }
    async with connect(admin_file, manager="twinspan-cli") as client:
        answer = await client.create(
            "v1", "serviceaccounts", namespace, body, name=name, subresource="token"
        )
    status = answer.get("status")
    return str(status["token"]) if isinstance(status, dict) else ""


def _split(account: str) -> tuple[str, str]:
    namespace, slash, name = account.rpartition("/")
    if not name or (slash and not namespace) or "/" in namespace:
        raise InvalidSetting(f"--token: expected [NAMESPACE/]ACCOUNT, got {account!r}")
    return namespace or "default", name


def _account_user(account: str | None) -> str:
    return "-".join(_split(account)) if account is not None else ""


def _server_of(admin: JsonObject) -> str:
    clusters = admin.get("clusters")
    first = clusters[0] if isinstance(clusters, list) and clusters else None
    cluster = first.get("cluster") if isinstance(first, dict) else None
    if not isinstance(cluster, dict) or "server" not in cluster:
        raise InvalidSetting("the administrator's kubeconfig names no server")
    return str(cluster["server"])


def _warn_of_name(server: str, folder: Path) -> None:
    """Say so where the server's certificate does not name an address: clients would refuse it."""
    from urllib.parse import urlsplit

    from gateway.runtime.certificates import is_usable, kept

    host = urlsplit(server if "://" in server else f"https://{server}").hostname or server
    pair = kept(folder, "server")
    if pair is not None and not is_usable(pair, (host,)):
        click.echo(
            f"warning: the server's certificate does not name {host}: start it with --advertise {host}",
            err=True,
        )


def _put(config: JsonObject, output: Path | None, *, merge: bool) -> None:
    """Print or write a kubeconfig. Errors: InvalidSetting."""
    from gateway.kube import kubeconfig as configs

    if output is None and not merge:
        click.echo(configs.text_of(config), nl=False)
        return
    path = output or _usual_file()
    if merge:
        config = configs.merged(configs.read_config(path), config)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        configs.write_private(path, configs.text_of(config))
    except OSError as error:
        raise InvalidSetting(f"{path}: cannot be written: {error.strerror}") from error
    click.echo(f"{path}: context {config['current-context']}", err=True)


def _usual_file() -> Path:
    """The file that kubectl writes to."""
    named = [text for text in os.environ.get("KUBECONFIG", "").split(os.pathsep) if text]
    return Path(named[0]) if named else Path.home() / ".kube" / "config"
