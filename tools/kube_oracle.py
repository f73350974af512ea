"""Do the same random writes to the embedded Kubernetes API and to a real one, and show where they differ.

    python tools/kube_oracle.py --server https://127.0.0.1:6443 --ca ca.crt --cert admin.crt --key admin.key

By hand only: needs an API server of the version that is served here, without controllers. Several managers
create, replace, patch and apply; after each step the answers' codes, messages, objects and `managedFields`
are compared. What is random on both sides (uids, times, versions) is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import http.client
import json
import random
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config.kube import Kube, KubeHttps
from tests.kube_server import kube_server

NAMESPACE = "oracle-walk"
MANAGERS = ("ann", "bob", "cid", "kubectl", "kubectl-client-side-apply")
TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
GROUP = "walk.example.com"


class Server:
    """One API server, over one connection."""

    def __init__(self, url: str, context: ssl.SSLContext, token: str = "") -> None:
        place = urlsplit(url)
        self._connection = http.client.HTTPSConnection(
            place.hostname or "", place.port, context=context, timeout=30
        )
        self._headers = {"Accept": "application/json", "User-Agent": "walk/1"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> tuple[int, Any, list[str]]:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {**self._headers, "Content-Type": kind})
        answer = self._connection.getresponse()
        text = answer.read()
        warnings = [value for name, value in answer.getheaders() if name == "Warning"]
        return answer.status, json.loads(text) if text[:1] == b"{" else text.decode(), warnings


@contextmanager
def embedded() -> Iterator[Server]:
    """The embedded API in a thread of its own."""
    started, stop = threading.Event(), threading.Event()
    found: list[tuple[str, str]] = []

    async def serve(folder: Path) -> None:
        settings = Kube(https=KubeHttps(bind="127.0.0.1:0"))
        async with kube_server(folder, settings) as server:
            found.append((server.url, server.token))
            started.set()
            await asyncio.to_thread(stop.wait)

    with tempfile.TemporaryDirectory() as name:
        thread = threading.Thread(target=lambda: asyncio.run(serve(Path(name))))
        thread.start()
        started.wait(30)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            yield Server(found[0][0], context, found[0][1])
        finally:
            stop.set()
            thread.join()


# --- what is compared -----------------------------------------------------------------------------

_RANDOM = ("uid", "resourceVersion", "creationTimestamp", "selfLink")


def plain(document: Any) -> Any:
    """A document without what no two servers share."""
    if not isinstance(document, dict):
        return document
    out = copy.deepcopy(document)
    metadata = out.get("metadata")
    if isinstance(metadata, dict):
        for name in _RANDOM:
            metadata.pop(name, None)
        for entry in metadata.get("managedFields", ()):
            entry["time"] = "time" in entry
        if "managedFields" in metadata:
            metadata["managedFields"].sort(key=lambda entry: json.dumps(entry, sort_keys=True))
    if isinstance(out.get("details"), dict):
        out["details"].get("causes", []).sort(key=lambda cause: json.dumps(cause, sort_keys=True))
        if "FieldManagerConflict" in json.dumps(out["details"]):
            out["message"] = sorted(out["message"].splitlines())
        if not out["details"]:
            del out["details"]
    return out


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted({*ours, *theirs}):
            here = f"{path}.{name}"
            if name not in theirs:
                yield f"only ours {here} = {json.dumps(ours[name])[:300]}"
            elif name not in ours:
                yield f"only real {here} = {json.dumps(theirs[name])[:300]}"
            else:
                yield from differences(ours[name], theirs[name], here)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (left, right) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(left, right, f"{path}[{at}]")
    elif ours != theirs or type(ours) is not type(theirs):
        yield f"{path}: ours {json.dumps(ours)[:400]} real {json.dumps(theirs)[:400]}"


# --- random documents -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A kind, and how to make some of it."""

    name: str
    path: str
    api_version: str
    kind: str
    make: Callable[[random.Random], dict[str, Any]]
    patches: tuple[str, ...] = ("json", "merge", "strategic", "apply")
    has_status: bool = False


def some(rng: random.Random, items: list[Any], least: int = 0) -> list[Any]:
    return rng.sample(items, rng.randint(least, len(items)))


def text_map(rng: random.Random, least: int = 0) -> dict[str, str]:
    return {key: rng.choice("xyz") for key in some(rng, ["a", "b", "c"], least)}


def a_configmap(rng: random.Random) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if rng.random() < 0.8:
        out["data"] = text_map(rng)
    if rng.random() < 0.2:
        out["binaryData"] = dict.fromkeys(some(rng, ["q", "r"]), "AAAA")
    return out


def a_container(rng: random.Random, name: str) -> dict[str, Any]:
    out: dict[str, Any] = {"name": name, "image": f"registry/{rng.choice('xy')}:1"}
    if rng.random() < 0.5:
        out["env"] = [
            {"name": key, "value": rng.choice("123")} for key in some(rng, ["A", "B", "C"])
        ]
    if rng.random() < 0.5:
        out["ports"] = [
            {"containerPort": port}
            | ({"name": rng.choice(["n", "m"]) + str(port)} if rng.random() < 0.5 else {})
            | ({"protocol": "TCP"} if rng.random() < 0.5 else {})
            for port in some(rng, [80, 81, 82])
        ]
    if rng.random() < 0.3:
        out["resources"] = {"limits": {"cpu": rng.choice(["1", "500m"])}}
    if rng.random() < 0.3:
        out["command"] = some(rng, ["x", "y"])
    return out


def pod_spec(rng: random.Random, *, full: bool = True) -> dict[str, Any]:
    out: dict[str, Any] = {
        "containers": [a_container(rng, name) for name in some(rng, ["c1", "c2", "c3"], 1)]
    }
    if rng.random() < 0.3:
        out["nodeSelector"] = text_map(rng)
    if rng.random() < 0.3:
        out["tolerations"] = [{"key": key, "operator": "Exists"} for key in some(rng, ["t", "u"])]
    if full and rng.random() < 0.4:
        out["volumes"] = [{"name": name, "emptyDir": {}} for name in some(rng, ["v1", "v2"])]
    return out


def a_deployment(rng: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": {"matchLabels": {"app": "w"}},
        "template": {"metadata": {"labels": {"app": "w", **text_map(rng)}}, "spec": pod_spec(rng)},
    }
    if rng.random() < 0.5:
        spec["replicas"] = rng.randint(0, 3)
    if rng.random() < 0.3:
        spec["strategy"] = {"type": rng.choice(["Recreate", "RollingUpdate"])}
    return {"spec": spec}


def a_service(rng: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "ports": [
            {"name": f"p{port}", "port": port, "targetPort": rng.choice([80, "web"])}
            | ({"protocol": rng.choice(["TCP", "UDP"])} if rng.random() < 0.5 else {})
            for port in some(rng, [80, 81, 82], 1)
        ],
        "clusterIP": "None",
    }
    if rng.random() < 0.6:
        spec["selector"] = text_map(rng)
    return {"spec": spec}


def an_account(rng: random.Random) -> dict[str, Any]:
    return {
        "secrets": [{"name": name} for name in some(rng, ["s1", "s2", "s3", "s4"])],
        "imagePullSecrets": [{"name": name} for name in some(rng, ["i1", "i2"])],
    }


def directed(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """A strategic patch with directives of every kind."""
    rows = document.get("secrets", [])
    for row in rows:
        if rng.random() < 0.25:
            row["$patch"] = "delete"
    if rng.random() < 0.15:
        rows.append({"$patch": "replace"})
    if rng.random() < 0.4:
        names = [row["name"] for row in rows if "$patch" not in row]
        more = [name for name in ("s1", "s2", "s3", "s4") if name not in names]
        order = names + some(rng, more) if rng.random() < 0.7 else some(rng, names + more)
        document["$setElementOrder/secrets"] = [{"name": name} for name in order]
    metadata = document["metadata"]
    if rng.random() < 0.2:
        metadata["$deleteFromPrimitiveList/finalizers"] = some(
            rng, ["w.example.com/a", "w.example.com/b"], 1
        )
    if rng.random() < 0.2 and "finalizers" in metadata:
        metadata["$setElementOrder/finalizers"] = metadata["finalizers"]
    if "labels" in metadata and rng.random() < 0.3:
        metadata["labels"]["$patch"] = rng.choice(["replace", "delete"])
    elif "labels" in metadata and rng.random() < 0.3:
        metadata["labels"]["$retainKeys"] = some(rng, ["a", "b", "c"])
    return document


def a_custom(rng: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if rng.random() < 0.6:
        spec["rows"] = [
            {"key": key, "value": rng.choice("12")}
            | ({"zone": "z2"} if rng.random() < 0.3 else {})
            | ({"extra": {"deep": rng.randint(0, 2)}} if rng.random() < 0.3 else {})
            for key in some(rng, ["r1", "r2", "r3"])
        ]
    if rng.random() < 0.5:
        spec["tags"] = some(rng, ["t1", "t2", "t3"])
    if rng.random() < 0.4:
        spec["plain"] = some(rng, [1, 2, 3])
    if rng.random() < 0.4:
        spec["whole"] = text_map(rng)
    if rng.random() < 0.5:
        spec["map"] = text_map(rng)
    if rng.random() < 0.4:
        spec["free"] = rng.choice([{"l": [1, {"m": 2}], "n": {}}, {"n": {"o": None}}, {}])
    if rng.random() < 0.3:
        spec["maybe"] = rng.choice([None, "x"])
    if rng.random() < 0.3:
        spec["port"] = rng.choice([80, "web"])
    out: dict[str, Any] = {"spec": spec}
    if rng.random() < 0.4:
        out["status"] = {"seen": rng.randint(0, 3)}
    return out


_CUSTOM_SPEC: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["key", "zone"],
            "items": {
                "type": "object",
                "required": ["key"],
                "properties": {
                    "key": {"type": "string"},
                    "zone": {"type": "string", "default": "z1"},
                    "value": {"type": "string"},
                    "extra": {"type": "object", "properties": {"deep": {"type": "integer"}}},
                },
            },
        },
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "integer"}},
        "whole": {
            "type": "object",
            "x-kubernetes-map-type": "atomic",
            "additionalProperties": {"type": "string"},
        },
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "maybe": {"type": "string", "nullable": True},
        "port": {"x-kubernetes-int-or-string": True},
        "size": {"type": "integer", "default": 3},
    },
}

DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"walks.{GROUP}"},
    "spec": {
        "group": GROUP,
        "names": {"plural": "walks", "kind": "Walk"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": _CUSTOM_SPEC,
                            "status": {
                                "type": "object",
                                "properties": {"seen": {"type": "integer"}},
                            },
                        },
                    }
                },
            }
        ],
    },
}

SUBJECTS = (
    Subject("configmap", "/api/v1", "v1", "ConfigMap", a_configmap),
    Subject("serviceaccount", "/api/v1", "v1", "ServiceAccount", an_account),
    Subject("deployment", "/apis/apps/v1", "apps/v1", "Deployment", a_deployment, has_status=True),
    Subject("service", "/api/v1", "v1", "Service", a_service, has_status=True),
    Subject(
        "walk",
        f"/apis/{GROUP}/v1",
        f"{GROUP}/v1",
        "Walk",
        a_custom,
        ("json", "merge", "apply"),
        True,
    ),
)


# --- one walk -------------------------------------------------------------------------------------


class Walk:
    """One object on both servers."""

    def __init__(self, ours: Server, real: Server, subject: Subject, seed: int) -> None:
        self.servers = (ours, real)
        self.subject = subject
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311  the same walk again
        self.name = f"{subject.name}-{seed}"
        root = f"{subject.path}/namespaces/{NAMESPACE}/{subject.name}s"
        self.collection, self.object = root, f"{root}/{self.name}"
        self.log: list[str] = []

    def document(self) -> dict[str, Any]:
        rng = self.rng
        metadata: dict[str, Any] = {"name": self.name}
        if rng.random() < 0.5:
            metadata["labels"] = text_map(rng)
        if rng.random() < 0.2:
            metadata["finalizers"] = some(rng, ["w.example.com/a", "w.example.com/b"])
        return {
            "apiVersion": self.subject.api_version,
            "kind": self.subject.kind,
            "metadata": metadata,
            **self.subject.make(rng),
        }

    def run(self, steps: int) -> list[str]:
        for _ in range(steps):
            found = self.step()
            if found:
                return found
        return []

    def step(self) -> list[str]:
        choice = self.rng.choices(
            ("apply", "update", "merge", "json", "strategic", "status", "create"),
            (8, 2, 3, 2, 3, 2, 2),
        )[0]
        if choice in TYPES and choice not in self.subject.patches:
            choice = "apply"
        return getattr(self, f"_{choice}")()

    def _both(
        self, method: str, path: str, bodies: Any, kind: str = "application/json"
    ) -> list[str]:
        if not isinstance(bodies, tuple):
            bodies = (bodies, bodies)
        answers = [
            server.ask(method, path, body, kind)
            for server, body in zip(self.servers, bodies, strict=True)
        ]
        self.log.append(f"{method} {path} {kind} {json.dumps(bodies[1])} -> {answers[1][0]}")
        ours, real = answers
        found = []
        if ours[0] != real[0]:
            found.append(
                f"code: ours {ours[0]} real {real[0]}: {str(ours[1])[:500]} / {str(real[1])[:500]}"
            )
        else:
            found += differences(plain(ours[1]), plain(real[1]))
        if sorted(ours[2]) != sorted(real[2]):
            found.append(f"warnings: ours {ours[2]} real {real[2]}")
        return found

    def _query(self) -> str:
        return f"?fieldManager={self.rng.choice(MANAGERS)}"

    def _create(self) -> list[str]:
        return self._both("POST", self.collection + self._query(), self.document())

    def _apply(self) -> list[str]:
        query = self._query() + f"&force={'true' if self.rng.random() < 0.5 else 'false'}"
        return self._both("PATCH", self.object + query, self.document(), TYPES["apply"])

    def _live(self) -> tuple[Any, Any] | None:
        answers = [server.ask("GET", self.object) for server in self.servers]
        if any(code != 200 for code, _, _ in answers):
            return None
        return answers[0][1], answers[1][1]

    def _update(self) -> list[str]:
        live = self._live()
        if live is None:
            return self._create()
        wanted = self.document()
        keep = self.rng.random() < 0.5
        reset = self.rng.random() < 0.15
        for item in live:
            if keep:
                item["metadata"]["labels"] = wanted["metadata"].get("labels", {})
            else:
                for key in wanted:
                    if key not in ("metadata", "apiVersion", "kind", "status"):
                        item[key] = wanted[key]
            if reset:
                item["metadata"]["managedFields"] = [{}]
        return self._both("PUT", self.object + self._query(), live)

    def _merge(self) -> list[str]:
        wanted = self.document()
        del wanted["metadata"]["name"]
        if self.rng.random() < 0.5 and isinstance(wanted.get("spec"), dict) and wanted["spec"]:
            wanted["spec"][self.rng.choice(list(wanted["spec"]))] = None
        return self._both("PATCH", self.object + self._query(), wanted, TYPES["merge"])

    def _strategic(self) -> list[str]:
        wanted = self.document()
        del wanted["metadata"]["name"]
        if self.subject.name == "serviceaccount":
            wanted = directed(self.rng, wanted)
        return self._both("PATCH", self.object + self._query(), wanted, TYPES["strategic"])

    def _json(self) -> list[str]:
        rng = self.rng
        operations = rng.choice(
            [
                [{"op": "add", "path": "/metadata/labels", "value": text_map(rng)}],
                [{"op": "remove", "path": "/metadata/labels/a"}],
                [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}],
                [{"op": "test", "path": "/metadata/name", "value": "other"}],
                [{"op": "add", "path": "/metadata/annotations", "value": {"n": rng.choice("12")}}],
            ]
        )
        return self._both("PATCH", self.object + self._query(), operations, TYPES["json"])

    def _status(self) -> list[str]:
        if not self.subject.has_status:
            return []
        if self.subject.name == "walk":
            status: dict[str, Any] = {"seen": self.rng.randint(0, 5)}
        elif self.subject.name == "deployment":
            status = {"observedGeneration": self.rng.randint(1, 3), "replicas": 1}
        else:
            status = {
                "loadBalancer": {"ingress": [{"ip": self.rng.choice(["1.1.1.1", "2.2.2.2"])}]}
            }
        wanted = {
            "apiVersion": self.subject.api_version,
            "kind": self.subject.kind,
            "metadata": {"name": self.name},
            "status": status,
        }
        kind = TYPES[self.rng.choice(["merge", "apply"])]
        return self._both("PATCH", f"{self.object}/status" + self._query(), wanted, kind)


def prepare(server: Server) -> None:
    server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    server.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", DEFINITION)
    while server.ask("GET", f"/apis/{GROUP}/v1/namespaces/{NAMESPACE}/walks")[0] != 200:
        pass


def clean(server: Server) -> None:
    for subject in SUBJECTS:
        path = f"{subject.path}/namespaces/{NAMESPACE}/{subject.name}s"
        for item in server.ask("GET", path)[1].get("items", ()):
            here = f"{path}/{item['metadata']['name']}"
            server.ask("PATCH", here, {"metadata": {"finalizers": None}}, TYPES["merge"])
            server.ask("DELETE", here)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    for name in ("ca", "cert", "key"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--walks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--show", type=int, default=12)
    args = parser.parse_args()
    context = ssl.create_default_context(cafile=args.ca)
    context.load_cert_chain(args.cert, args.key)
    real = Server(args.server, context)
    bad = 0
    with embedded() as ours:
        prepare(ours)
        prepare(real)
        clean(real)
        for subject in SUBJECTS:
            if args.only and subject.name != args.only:
                continue
            for seed in range(args.seed, args.seed + args.walks):
                walk = Walk(ours, real, subject, seed)
                found = walk.run(args.steps)
                if found:
                    bad += 1
                    if bad <= args.show:
                        say(f"== {subject.name} seed {seed}, step {len(walk.log)}")
                        say("\n".join(walk.log[-3:]))
                        say("   " + "\n   ".join(found[:8]))
        clean(real)
    say(f"{bad} walks differ")


if __name__ == "__main__":
    main()
