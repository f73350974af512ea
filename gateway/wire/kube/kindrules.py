"""Which rules complete and judge which kind: one table, by storage key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.model.json import JsonObject
from gateway.wire.kube import (
    batchjobs,
    netkinds,
    policykinds,
    storagekinds,
    workloads,
)
from gateway.wire.kube.names import Rule, subdomain_fault
from gateway.wire.kube.status import Cause


def _keep(_item: JsonObject, _old: JsonObject | None) -> None:
    """Nothing to complete."""


def _fine(_item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    return []


@dataclass(frozen=True, slots=True)
class KindRules:
    """How a kind is completed and judged; `old` is None for a new object."""

    prepare: Callable[[JsonObject, JsonObject | None], None] = _keep
    faults: Callable[[JsonObject, JsonObject | None], list[Cause]] = _fine
    name_rule: Rule = subdomain_fault


RULES: Mapping[str, KindRules] = {
    "deployments.apps": KindRules(workloads.prepare_deployment, workloads.deployment_faults),
    "replicasets.apps": KindRules(workloads.prepare_replicaset, workloads.replicaset_faults),
    "statefulsets.apps": KindRules(workloads.prepare_statefulset, workloads.statefulset_faults),
    "daemonsets.apps": KindRules(workloads.prepare_daemonset, workloads.daemonset_faults),
    "controllerrevisions.apps": KindRules(faults=workloads.revision_faults),
    "replicationcontrollers": KindRules(
        workloads.prepare_replicationcontroller, workloads.replicationcontroller_faults
    ),
    "podtemplates": KindRules(workloads.prepare_podtemplate, workloads.podtemplate_faults),
    "jobs.batch": KindRules(batchjobs.prepare_job, batchjobs.job_faults),
    "cronjobs.batch": KindRules(
        batchjobs.prepare_cronjob, batchjobs.cronjob_faults, batchjobs.cron_name_fault
    ),
    "endpoints": KindRules(netkinds.prepare_endpoints, netkinds.endpoints_faults),
    "endpointslices.discovery.k8s.io": KindRules(netkinds.prepare_slice, netkinds.slice_faults),
    "ingresses.networking.k8s.io": KindRules(netkinds.prepare_ingress, netkinds.ingress_faults),
    "ingressclasses.networking.k8s.io": KindRules(netkinds.prepare_class, netkinds.class_faults),
    "networkpolicies.networking.k8s.io": KindRules(netkinds.prepare_policy, netkinds.policy_faults),
    "poddisruptionbudgets.policy": KindRules(policykinds.prepare_budget, policykinds.budget_faults),
    "horizontalpodautoscalers.autoscaling": KindRules(
        policykinds.prepare_autoscaler, policykinds.autoscaler_faults
    ),
    "priorityclasses.scheduling.k8s.io": KindRules(
        policykinds.prepare_priority, policykinds.priority_faults
    ),
    "runtimeclasses.node.k8s.io": KindRules(faults=policykinds.runtime_faults),
    "resourcequotas": KindRules(policykinds.prepare_quota, policykinds.quota_faults),
    "limitranges": KindRules(policykinds.prepare_limits, policykinds.limits_faults),
    "persistentvolumes": KindRules(storagekinds.prepare_volume, storagekinds.volume_faults),
    "persistentvolumeclaims": KindRules(storagekinds.prepare_claim, storagekinds.claim_faults),
    "storageclasses.storage.k8s.io": KindRules(
        storagekinds.prepare_class, storagekinds.class_faults
    ),
    "csidrivers.storage.k8s.io": KindRules(storagekinds.prepare_driver, storagekinds.driver_faults),
    "csinodes.storage.k8s.io": KindRules(storagekinds.prepare_node),
    "volumeattachments.storage.k8s.io": KindRules(
        storagekinds.prepare_attachment, storagekinds.attachment_faults
    ),
    "volumeattributesclasses.storage.k8s.io": KindRules(faults=storagekinds.attributes_faults),
}
