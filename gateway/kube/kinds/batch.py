"""The kinds of `batch` and `autoscaling`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.kube.kinds.rows import ALL, row
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.views import AUTOSCALERS


def kinds() -> Iterator[ResourceType]:
    """Rows in the order of discovery."""
    yield row(
        "autoscaling/v2",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        short=("hpa",),
        categories=ALL,
        status=True,
    )
    yield row(
        "autoscaling/v1",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        short=("hpa",),
        categories=ALL,
        status=True,
        view=AUTOSCALERS,
    )
    yield row(
        "batch/v1",
        "cronjobs",
        "CronJob",
        short=("cj",),
        categories=ALL,
        status=True,
        generation=True,
    )
    yield row("batch/v1", "jobs", "Job", categories=ALL, status=True, generation=True,
              fields={"status.successful": ("status", "succeeded", "=0")})  # fmt: skip
