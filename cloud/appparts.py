"""The objects that an EdgeApplication stands for, and how they fare. Pure.

Workloads: one copy for each target. Other kinds: once, as they are; a Service is told to stay within its
node group. All belong to the application, so that they go with it. Source: KubeEdge reference, section 20.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from cloud.overriders import WORKLOADS, group_kind
from cloud.slices import RANGE_GROUP, TOPOLOGY
from cloud.targets import Target, targets_of
from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text

APPS = "apps.kubeedge.io/v1alpha1"
KIND = "EdgeApplication"
MAX_PARTS = 2_000
CONTAINED = "apps.kubeedge.io/last-contained-resources"
"""Annotation of an EdgeApplication: what was made of it. KubeEdge's form."""
MARK = "twinspan.io/edge-application"
"""Label of what was made: the uid of its EdgeApplication."""
APPLIED = "twinspan.io/applied"
"""Annotation of what was made: a hash of what it was made of."""
_KEPT = ("name", "labels", "annotations", "finalizers")


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Which object."""

    group: str
    version: str
    kind: str
    namespace: str
    name: str

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f'{self.kind} "{self.name}"'


@dataclass(frozen=True, slots=True)
class Part:
    """One object of an application. Shape: without `document`, `problem` says why there is none."""

    ordinal: int
    ref: Ref
    document: JsonObject | None = None
    group: str = ""
    """The NodeGroup that it is for."""
    problem: str = ""
    is_wanted: bool = True
    """False when what was made of it before is to go."""


def parts_of(app: JsonObject) -> list[Part]:
    """Return what an application stands for, each manifest at least once; at most `MAX_PARTS`."""
    parts = _all_parts(app)
    if len(parts) > MAX_PARTS:
        last = parts[MAX_PARTS - 1]
        problem = f"an EdgeApplication makes {MAX_PARTS - 1} objects at most"
        parts[MAX_PARTS - 1 :] = [Part(last.ordinal, last.ref, problem=problem, is_wanted=False)]
    return parts


def _all_parts(app: JsonObject) -> list[Part]:
    spec = mapping(app.get("spec"))
    manifests = mapping(spec.get("workloadTemplate")).get("manifests")
    targets = list(targets_of(mapping(spec.get("workloadScope"))))
    found: dict[Ref, Part] = {}
    parts: list[Part] = []
    for ordinal, manifest in enumerate(manifests if isinstance(manifests, list) else []):
        for part in _parts(app, ordinal, mapping(manifest), targets):
            first = found.setdefault(part.ref, part) if part.is_wanted else part
            same = f"the same object as one of manifest {first.ordinal}"
            is_first = first is part
            parts.append(
                part if is_first else Part(ordinal, part.ref, problem=same, is_wanted=False)
            )
            if len(parts) > MAX_PARTS:
                return parts
    return parts


def _parts(
    app: JsonObject, ordinal: int, manifest: JsonObject, targets: list[Target]
) -> Iterator[Part]:
    owner, meta = ObjectMeta.read(app), ObjectMeta.read(manifest)
    group, kind = group_kind(manifest)
    version = text(manifest.get("apiVersion")).rpartition("/")[2]
    ref = Ref(group, version, kind, owner.namespace, meta.name)
    problem = _fault(ref, meta, owner, targets)
    if problem:
        yield Part(ordinal, ref, problem=problem, is_wanted=False)
    elif (group, kind) not in WORKLOADS:
        yield Part(ordinal, ref, _finished(app, manifest))
    else:
        for target in targets:
            name = target.name_of(meta.name)
            own = Ref(group, version, kind, owner.namespace, name)
            try:
                copied = target.copy_of(manifest)
            except GatewayError as error:
                yield Part(ordinal, own, group=target.group, problem=error.message)
            else:
                yield Part(ordinal, own, _finished(app, copied), target.group)


def _fault(ref: Ref, meta: ObjectMeta, owner: ObjectMeta, targets: list[Target]) -> str:
    if not (ref.version and ref.kind and ref.name):
        return "a manifest needs apiVersion, kind and metadata.name"
    if meta.namespace not in ("", owner.namespace):
        return f"it is of namespace {meta.namespace}: what an EdgeApplication makes is of its own"
    if (ref.group, ref.kind) in WORKLOADS and not targets:
        return "spec.workloadScope names no target"
    return ""


def _finished(app: JsonObject, manifest: JsonObject) -> JsonObject:
    """Return an object as it is applied: of its application, marked, without what servers decide."""
    owner, meta = ObjectMeta.read(app), mapping(manifest.get("metadata"))
    metadata: JsonObject = {key: meta[key] for key in _KEPT if key in meta}
    metadata["namespace"] = owner.namespace
    metadata["labels"] = {**mapping(meta.get("labels")), MARK: owner.uid}
    metadata["ownerReferences"] = [_owner(owner)]
    annotations = {**mapping(meta.get("annotations"))}
    if group_kind(manifest) == ("", "Service"):
        annotations[TOPOLOGY] = RANGE_GROUP
    metadata["annotations"] = annotations
    body = {key: value for key, value in manifest.items() if key != "status"}
    annotations[APPLIED] = _hash({**body, "metadata": {**metadata, "annotations": {**annotations}}})
    return {**body, "metadata": metadata}


def _owner(owner: ObjectMeta) -> JsonObject:
    return {
        "apiVersion": APPS,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _hash(document: JsonObject) -> str:
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()[:32]


# --- what was made -----------------------------------------------------------------------------------


def contained(app: JsonObject) -> set[Ref]:
    """Return what was made of an application, as its annotation says; what cannot be read is nothing."""
    note = ObjectMeta.read(app).annotations.get(CONTAINED, "")
    try:
        entries = msgspec.json.decode(note) if note else []
    except (msgspec.DecodeError, RecursionError):
        return set()
    own = ObjectMeta.read(app).namespace
    found = [
        Ref(
            *(
                text(mapping(entry).get(key))
                for key in ("group", "version", "kind", "namespace", "name")
            )
        )
        for entry in (entries if isinstance(entries, list) else [])
    ]
    return {ref for ref in found if ref.name and ref.namespace in ("", own)}


def contained_note(refs: Iterable[Ref], parts: Iterable[Part]) -> str:
    """Return the annotation for what was made."""
    ordinals = {part.ref: part.ordinal for part in parts}
    entries = [
        {
            "ordinal": ordinals.get(ref, 0),
            "group": ref.group,
            "version": ref.version,
            "kind": ref.kind,
            "namespace": ref.namespace,
            "name": ref.name,
        }
        for ref in sorted(refs)
    ]
    return msgspec.json.encode(entries).decode()


def unwanted(made: Iterable[Ref], wanted: Iterable[Ref]) -> list[Ref]:
    """Return what was made and is not wanted, in order; another version of a kind is the same object."""
    kept = {(ref.group, ref.kind, ref.name) for ref in wanted}
    return sorted(ref for ref in made if (ref.group, ref.kind, ref.name) not in kept)


def owner_of(item: JsonObject) -> tuple[str, str]:
    """Return name and uid of the EdgeApplication that an object belongs to, empty for none."""
    owners = mapping(item.get("metadata")).get("ownerReferences")
    for owner in owners if isinstance(owners, list) else []:
        entry = mapping(owner)
        if entry.get("kind") == KIND and text(entry.get("apiVersion")).startswith(
            "apps.kubeedge.io/"
        ):
            return text(entry.get("name")), text(entry.get("uid"))
    return "", ""


def is_current(item: JsonObject, document: JsonObject) -> bool:
    """True when an object was made of just this."""
    wanted = ObjectMeta.read(document).annotations.get(APPLIED)
    return ObjectMeta.read(item).annotations.get(APPLIED) == wanted


# --- how it fares ------------------------------------------------------------------------------------


def missing(ref: Ref, item: JsonObject) -> str:
    """Return what an object lacks to be Available, "" for nothing."""
    check = _CHECKS.get((ref.group, ref.kind))
    return (
        "" if check is None else check(item, mapping(item.get("spec")), mapping(item.get("status")))
    )


def _of_pod(_item: JsonObject, _spec: JsonObject, status: JsonObject) -> str:
    phase = text(status.get("phase")) or "Pending"
    if phase == "Succeeded" or _condition(status, "Ready"):
        return ""
    return f"the Pod is {phase}" + (", not ready" if phase == "Running" else "")


def _of_replicas(item: JsonObject, spec: JsonObject, status: JsonObject) -> str:
    wanted = _number(spec.get("replicas"), 1)
    ready = _number(status.get("readyReplicas"), 0)
    return _counted(item, status, ready, wanted)


def _of_daemons(item: JsonObject, _spec: JsonObject, status: JsonObject) -> str:
    wanted = _number(status.get("desiredNumberScheduled"), 0)
    return _counted(item, status, _number(status.get("numberReady"), 0), wanted)


def _of_job(_item: JsonObject, _spec: JsonObject, status: JsonObject) -> str:
    return "" if _condition(status, "Complete") else "the Job is not complete"


def _counted(item: JsonObject, status: JsonObject, ready: int, wanted: int) -> str:
    if _number(status.get("observedGeneration"), 0) < ObjectMeta.read(item).generation:
        return "the newest state is not seen yet"
    return "" if ready >= wanted else f"{ready} of {wanted} are ready"


def _number(value: Json, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _condition(status: JsonObject, kind: str) -> bool:
    conditions = status.get("conditions")
    return any(
        mapping(each).get("type") == kind and mapping(each).get("status") == "True"
        for each in (conditions if isinstance(conditions, list) else [])
    )


_CHECKS: Mapping[tuple[str, str], Callable[[JsonObject, JsonObject, JsonObject], str]] = {
    ("", "Pod"): _of_pod,
    ("apps", "Deployment"): _of_replicas,
    ("apps", "StatefulSet"): _of_replicas,
    ("apps", "ReplicaSet"): _of_replicas,
    ("apps", "DaemonSet"): _of_daemons,
    ("batch", "Job"): _of_job,
}
