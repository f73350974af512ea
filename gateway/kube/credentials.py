"""How to reach an API server, and as whom: from a kubeconfig, or as a Pod's ServiceAccount.

Client certificates, tokens and token files are read here. What a kubeconfig leaves to programs or log-ins
(`exec`, `auth-provider`) is left to the official `kubernetes` package, loaded only then: extra `cloud`.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.config.kube import Kube
from gateway.errors import InvalidSetting

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a Pod finds its ServiceAccount's token."""
_HOST, _PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
_PROGRAMS = ("exec", "auth-provider")


@dataclass(slots=True)
class Access:
    """An API server and our credentials there.

    Shape:  `headers` go with each request; `renew` returns newer ones (tokens end): it may read files or run
            programs, so call it in a thread. None: they do not change.
    """

    server: str
    tls: ssl.SSLContext
    headers: Mapping[str, str]
    renew: Callable[[], Mapping[str, str]] | None = None


def find_access(settings: Kube, environment: Mapping[str, str] = os.environ) -> Access:
    """Return the way to the cluster that the settings mean.

    Errors: InvalidSetting, naming the file and what is missing in it, or where none was found.
    """
    if settings.kubeconfig:
        return from_kubeconfig(Path(settings.kubeconfig).expanduser(), settings.context)
    if environment.get(_HOST) and (ACCOUNT / "token").exists():
        return from_account(ACCOUNT, environment)
    files = [Path(text) for text in environment.get("KUBECONFIG", "").split(os.pathsep) if text]
    for path in files or [Path.home() / ".kube" / "config"]:
        if path.exists():
            return from_kubeconfig(path, settings.context)
    raise InvalidSetting(
        "kube.mode: cluster needs kube.kubeconfig, $KUBECONFIG, ~/.kube/config or a Pod's ServiceAccount"
    )


def from_account(folder: Path, environment: Mapping[str, str]) -> Access:
    """Return the access of a Pod's ServiceAccount. Errors: InvalidSetting."""
    host, port = environment[_HOST], environment.get(_PORT, "443")
    shown = f"[{host}]" if ":" in host else host
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting(f"{folder / 'ca.crt'}: {error}") from error
    renew = _token_file(folder / "token")
    return Access(f"https://{shown}:{port}", context, renew(), renew)


def from_kubeconfig(path: Path, context: str = "") -> Access:
    """Return the access of a kubeconfig's context, the current one where none is named.

    Errors: InvalidSetting, naming the file and what is missing.
    """
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
        chosen = _named(config, "contexts", context or config["current-context"])["context"]
        cluster = _named(config, "clusters", chosen["cluster"])["cluster"]
        user = _named(config, "users", chosen["user"])["user"] or {}
        if any(key in user for key in _PROGRAMS):
            return _by_programs(path, context)
        server, tls = str(cluster["server"]).rstrip("/"), _tls(path.parent, cluster, user)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidSetting(f"{path}: expected a kubeconfig: {error!r}") from error
    if "tokenFile" in user and "token" not in user:
        renew = _token_file(path.parent / user["tokenFile"])
        return Access(server, tls, renew(), renew)
    return Access(server, tls, _headers(user))


def _named(config: Mapping[str, Any], part: str, name: str) -> Mapping[str, Any]:
    for entry in config[part]:
        if entry["name"] == name:
            found: Mapping[str, Any] = entry
            return found
    raise KeyError(f"{part}: no {name!r}")


def _tls(folder: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    authority = _pem(folder, cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate, key = _pem(folder, user, "client-certificate"), _pem(folder, user, "client-key")
    if certificate and key:
        # Python's ssl loads keys from files only: a private one, gone at once.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            os.chmod(file.name, 0o600)
            context.load_cert_chain(file.name)
    return context


def _pem(folder: Path, entry: Mapping[str, Any], name: str) -> bytes | None:
    if data := entry.get(f"{name}-data"):
        return base64.b64decode(data)
    return (folder / entry[name]).read_bytes() if name in entry else None


def _headers(user: Mapping[str, Any]) -> dict[str, str]:
    if "token" in user:
        return {"Authorization": f"Bearer {user['token']}"}
    if "username" in user:
        text = f"{user['username']}:{user.get('password', '')}".encode()
        return {"Authorization": f"Basic {base64.b64encode(text).decode()}"}
    return {}


def _token_file(path: Path) -> Callable[[], Mapping[str, str]]:
    def read() -> Mapping[str, str]:
        try:
            return {"Authorization": f"Bearer {path.read_text('ascii').strip()}"}
        except (OSError, ValueError) as error:
            raise InvalidSetting(f"{path}: expected a token: {error}") from error

    return read


def _by_programs(path: Path, context: str) -> Access:
    """Let the official package run what the kubeconfig names."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise InvalidSetting(
            f"{path}: its user logs in by a program: install twinspan[cloud] for that"
        ) from error
    found = client.Configuration()
    load: Callable[..., None] = config.load_kube_config
    try:
        load(str(path), context or None, client_configuration=found)
    except (config.ConfigException, OSError) as error:
        raise InvalidSetting(f"{path}: {error}") from error
    tls = ssl.create_default_context(cafile=found.ssl_ca_cert)
    if not found.verify_ssl:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if found.cert_file:
        tls.load_cert_chain(found.cert_file, found.key_file)

    def renew() -> Mapping[str, str]:
        bearer = found.auth_settings().get("BearerToken")  # may run the program again
        return {"Authorization": bearer["value"]} if bearer and bearer["value"] else {}

    return Access(found.host.rstrip("/"), tls, renew(), renew)
