"""KubeEdge's admission rules at work: the facts that each needs, fetched, and its judgement.

The names are those of KubeEdge's webhooks. The embedded API asks by itself, a cluster elsewhere over HTTPS
(`cloud.webhook`).
"""

from __future__ import annotations

from cloud.validation import (
    device_fault,
    device_warnings,
    endpoint_fault,
    model_fault,
    model_warnings,
    rule_fault,
    upgrade_fault,
    with_autonomy,
)
from gateway.errors import NotFound
from gateway.kube.client import KubeClient
from gateway.kube.hooks import Hooks, Opinion, Review
from gateway.wire.cloudedge.devices import GROUP_VERSION, MODELS, DeviceView, ObjectMeta
from gateway.wire.cloudedge.models import ModelView

RULES = "rules.kubeedge.io/v1"


class Admission:
    """Judges what is written of the edges' kinds; asks the API for what a rule must know."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    def register(self, hooks: Hooks) -> None:
        """Say what is judged, and under which webhook's name."""
        hooks.judge("devices.devices.kubeedge.io", "validatedevice.kubeedge.io", self._device)
        hooks.judge(
            "devicemodels.devices.kubeedge.io", "validatedevicemodel.kubeedge.io", self._model
        )
        hooks.judge("rules.rules.kubeedge.io", "validatedrule.kubeedge.io", self._rule)
        hooks.judge(
            "ruleendpoints.rules.kubeedge.io", "validatedruleendpoint.kubeedge.io", self._endpoint
        )
        hooks.judge(
            "nodeupgradejobs.operations.kubeedge.io",
            "validatenodeupgradejob.kubeedge.io",
            self._upgrade,
        )
        hooks.change("pods", "mutateofflinemigration.kubeedge.io", with_autonomy)

    async def _device(self, review: Review) -> Opinion:
        fault = device_fault(review.item)
        if fault or not review.wants_warnings:
            return Opinion(fault)
        device = DeviceView.read(review.item)
        return Opinion(warnings=device_warnings(device, await self._model_of(device)))

    async def _model_of(self, device: DeviceView) -> ModelView | None:
        if not device.model:
            return None
        namespace = device.meta.namespace
        try:
            found = await self._kube.get(GROUP_VERSION, MODELS, namespace, device.model)
        except NotFound:
            return None
        return ModelView.read(found)

    async def _model(self, review: Review) -> Opinion:
        fault = model_fault(review.item)
        if fault or not review.wants_warnings:
            return Opinion(fault)
        return Opinion(warnings=model_warnings(ModelView.read(review.item)))

    async def _rule(self, review: Review) -> Opinion:
        ends = await self._kube.list(RULES, "ruleendpoints", review.namespace)
        rules = await self._kube.list(RULES, "rules", review.namespace)
        by_name = {ObjectMeta.read(end).name: end for end in ends.items}
        others = [rule for rule in rules.items if ObjectMeta.read(rule).name != review.name]
        return Opinion(rule_fault(review.item, by_name, others))

    async def _endpoint(self, review: Review) -> Opinion:
        return Opinion(endpoint_fault(review.item))

    async def _upgrade(self, review: Review) -> Opinion:
        return Opinion(upgrade_fault(review.item, review.old))
