"""What a new Pod gets from other objects: its account's token, its priority, its runtime's needs.

Also what is said to who writes kinds that nothing here acts on. Source: Kubernetes "Admission Controllers
Reference", ServiceAccount, Priority, RuntimeClass; texts seen on version 1.36.
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import choice
from typing import Final

from gateway.kube.checks import SUFFIX_ALPHABET, SUFFIX_LENGTH
from gateway.kube.hooks import Hooks, Judge, Opinion, Review
from gateway.kube.storage import Storage
from gateway.kube.watch import Key
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import annotations_of, part, rows, text
from gateway.wire.kube.podrefs import MIRROR
from gateway.wire.kube.policykinds import SYSTEM_CLASSES
from gateway.wire.kube.status import forbidden

PODS, ACCOUNTS = "pods", "serviceaccounts"
PRIORITIES, RUNTIMES = "priorityclasses.scheduling.k8s.io", "runtimeclasses.node.k8s.io"
TOKEN_PLACE: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  a path
TOKEN_SECONDS = 3_607
"""An odd number by which the API knows a token that a Pod did not ask for itself."""
DEFAULT_POLICY = "PreemptLowerPriority"
_PLACES = ("initContainers", "containers")


class PodAdmission:
    """Completes new Pods from what is stored."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def admit(self, item: JsonObject) -> JsonObject:
        """Return a new Pod with what other objects give it; one that is stored as it is.

        Errors: Forbidden for an account or class that is not there, or a priority that is not its class's.
        """
        if part(item, "metadata").get("uid"):
            return item
        spec = dict(part(item, "spec"))
        pod = {**item, "spec": spec}
        if MIRROR not in annotations_of(
            pod
        ):  # a node makes it of a file; it may name nothing of the API
            self._set_account(pod, spec)
        self._set_runtime(pod, spec)
        self._set_priority(pod, spec)
        return pod

    def _find(self, kind: str, namespace: str, name: str) -> JsonObject | None:
        stored = self._storage.get(Key(kind, namespace, name))
        return stored.object if stored is not None else None

    # --- account ----------------------------------------------------------------------------------

    def _set_account(self, pod: JsonObject, spec: JsonObject) -> None:
        name = text(spec.get("serviceAccountName")) or text(spec.get("serviceAccount"))
        namespace = text(part(pod, "metadata").get("namespace"))
        account = self._find(ACCOUNTS, namespace, name or "default")
        if account is None:
            if name and name != "default":
                why = (
                    f"error looking up service account {namespace}/{name}:"
                    f' serviceaccount "{name}" not found'
                )
                raise _refused(pod, why)
            return  # a namespace may have no default account where no control loop makes one
        wanted = spec.get("automountServiceAccountToken")
        if wanted is None:
            wanted = account.get("automountServiceAccountToken")
        if wanted is not False:
            _mount_token(spec)
        secrets = account.get("imagePullSecrets")
        if secrets and not spec.get("imagePullSecrets"):
            spec["imagePullSecrets"] = secrets

    # --- classes ----------------------------------------------------------------------------------

    def _set_runtime(self, pod: JsonObject, spec: JsonObject) -> None:
        name = text(spec.get("runtimeClassName"))
        if not name:
            return
        runtime = self._find(RUNTIMES, "", name)
        if runtime is None:
            raise _refused(pod, f'pod rejected: RuntimeClass "{name}" not found')
        needs = part(runtime, "overhead").get("podFixed")
        if needs:
            spec["overhead"] = needs
        scheduling = part(runtime, "scheduling")
        if scheduling.get("nodeSelector"):
            spec["nodeSelector"] = {
                **part(spec, "nodeSelector"),
                **part(scheduling, "nodeSelector"),
            }
        own = rows(spec.get("tolerations"))
        added = [row for row in rows(scheduling.get("tolerations")) if row not in own]
        if added:
            spec["tolerations"] = [*own, *added]

    def _set_priority(self, pod: JsonObject, spec: JsonObject) -> None:
        name, value, policy = self._priority(pod, text(spec.get("priorityClassName")))
        if name:
            spec["priorityClassName"] = name
        given, wanted = spec.get("priority"), spec.get("preemptionPolicy")
        if given is not None and given != value:
            why = (
                f"the integer value of priority ({given}) must not be provided in pod spec; priority"
                f" admission controller computed {value} from the given PriorityClass name"
            )
            raise _refused(pod, why)
        if wanted not in (None, "", policy):
            why = (
                f"the string value of PreemptionPolicy ({wanted}) must not be provided in pod spec;"
                f" priority admission controller computed {policy} from the given PriorityClass name"
            )
            raise _refused(pod, why)
        spec["priority"], spec["preemptionPolicy"] = value, policy

    def _priority(self, pod: JsonObject, name: str) -> tuple[str, Json, str]:
        """The class of a Pod, its value, and whether it takes the place of others."""
        if not name:
            return self._usual_priority()
        known = self._find(PRIORITIES, "", name)
        if known is not None:
            return name, known.get("value") or 0, _policy_of(known)
        if name in SYSTEM_CLASSES:
            return name, SYSTEM_CLASSES[name], DEFAULT_POLICY
        raise _refused(pod, f"no PriorityClass with name {name} was found")

    def _usual_priority(self) -> tuple[str, Json, str]:
        usual = [
            stored.object
            for stored in self._storage.all(PRIORITIES)
            if stored.object.get("globalDefault") is True
        ]
        if not usual:
            return "", 0, DEFAULT_POLICY
        least = min(usual, key=_value_of)
        return text(part(least, "metadata").get("name")), _value_of(least), _policy_of(least)


def _value_of(priority: JsonObject) -> int:
    value = priority.get("value")
    return value if isinstance(value, int) else 0


def _policy_of(priority: JsonObject) -> str:
    return text(priority.get("preemptionPolicy")) or DEFAULT_POLICY


def _refused(pod: JsonObject, why: str) -> Exception:
    return forbidden(PODS, "", text(part(pod, "metadata").get("name")), why)


def _mount_token(spec: JsonObject) -> None:
    """Every container without something in that place gets the token there."""
    name = "kube-api-access-" + "".join(choice(SUFFIX_ALPHABET) for _ in range(SUFFIX_LENGTH))
    mount: JsonObject = {"name": name, "readOnly": True, "mountPath": TOKEN_PLACE}
    is_used = False
    for place in _PLACES:
        done: list[Json] = []
        for container in rows(spec.get(place)):
            mounts = rows(container.get("volumeMounts"))
            if any(each.get("mountPath") == TOKEN_PLACE for each in mounts):
                done.append(container)
            else:
                is_used = True
                done.append({**container, "volumeMounts": [*mounts, mount]})
        if done:
            spec[place] = done
    if is_used:
        spec["volumes"] = [*rows(spec.get("volumes")), _token_volume(name)]


def _token_volume(name: str) -> JsonObject:
    field: JsonObject = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    authority: JsonObject = {
        "name": "kube-root-ca.crt",
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }
    return {
        "name": name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": authority},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
            ],
            "defaultMode": 0o644,
        },
    }


# --- what is stored and nothing more --------------------------------------------------------------

STORED_ONLY: Mapping[str, str] = {
    "networkpolicies.networking.k8s.io": "NetworkPolicy is stored and not enforced",
    "resourcequotas": "ResourceQuota is stored and not enforced",
    "limitranges": "LimitRange is stored and not enforced",
    "horizontalpodautoscalers.autoscaling": "HorizontalPodAutoscaler is stored; nothing scales by it",
    "ingresses.networking.k8s.io": "Ingress is stored; nothing here leads traffic by it",
    "persistentvolumeclaims": "PersistentVolumeClaim is stored; nothing here provides or binds a volume",
    "endpoints": "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
}
"""What is said to who writes a kind, by storage key."""


def _remark(said: str) -> Judge:
    async def judge(_review: Review) -> Opinion:
        return Opinion(warnings=(said,))

    return judge


async def _claims_stay_pending(review: Review) -> Opinion:
    """Say to who makes a StatefulSet with claims what becomes of them: its controller writes them."""
    if review.old is not None or not part(review.item, "spec").get("volumeClaimTemplates"):
        return Opinion()
    said = "spec.volumeClaimTemplates: claims are made; nothing here provides or binds a volume"
    return Opinion(warnings=(said,))


ENFORCED_BY_LABEL = "pod-security.kubernetes.io/enforce"


async def _security_is_not_judged(review: Review) -> Opinion:
    """Say to who asks for a Pod Security level that Pods are not held to it."""
    wanted = _label(review.item, ENFORCED_BY_LABEL)
    if wanted in (None, "privileged") or wanted == _label(review.old, ENFORCED_BY_LABEL):
        return Opinion()
    said = f"{ENFORCED_BY_LABEL}: stored and not enforced, Pods of any Pod Security level are taken"
    return Opinion(warnings=(said,))


async def _nothing_balances(review: Review) -> Opinion:
    """Say to who wants a load balancer that the Service keeps waiting for its address."""
    spec, before = part(review.item, "spec"), part(review.old or {}, "spec")
    if spec.get("type") != "LoadBalancer" or before.get("type") == "LoadBalancer":
        return Opinion()
    said = "spec.type: nothing here gives a load balancer or an external address; the node port is there"
    return Opinion(warnings=(said,))


def _label(item: JsonObject | None, name: str) -> Json:
    return part(part(item or {}, "metadata"), "labels").get(name)


def register(hooks: Hooks, storage: Storage) -> None:
    """Let new Pods be completed, and writers be told what is not acted upon."""
    hooks.change(PODS, "pods.admission", PodAdmission(storage).admit)
    for kind, said in STORED_ONLY.items():
        hooks.judge(kind, "stored.only", _remark(said))
    hooks.judge("statefulsets.apps", "stored.only", _claims_stay_pending)
    hooks.judge("namespaces", "stored.only", _security_is_not_judged)
    hooks.judge("services", "stored.only", _nothing_balances)
