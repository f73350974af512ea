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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config.kube import Kube, KubeHttps
from tests.kube_server import kube_server
from tools.kube_documents import DEFINITION, GROUP, SUBJECTS, Subject, directed, some, text_map

NAMESPACE = "oracle-walk"
MANAGERS = ("ann", "bob", "cid", "kubectl", "kubectl-client-side-apply")
TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


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
