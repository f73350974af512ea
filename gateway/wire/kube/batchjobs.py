"""How Jobs and CronJobs are completed and judged.

Source: Kubernetes API reference, `batch/v1`; defaults and texts seen on version 1.36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.cron import find_zone, parse_schedule
from gateway.wire.kube.judging import (
    fixed,
    known,
    none_negative,
    selector_faults,
    unsupported,
)
from gateway.wire.kube.names import invalid_value, required, subdomain_fault
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.podspecs import complete_template, fill, opened
from gateway.wire.kube.selectors import read_selector
from gateway.wire.kube.status import Cause
from gateway.wire.kube.workloads import template_faults

UID, NAME = "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"
OLD_UID, OLD_NAME = "controller-uid", "job-name"
MAX_CRON_NAME = 52
MAX_INDEXES = 100_000
"""Most indexes that a Job may have with a limit of failures for each."""
_ENDING = ("OnFailure", "Never")
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")


# --- completing -----------------------------------------------------------------------------------


def prepare_job(item: JsonObject, old: JsonObject | None) -> None:
    """Fill in what a Job does not say; it finds its Pods by its own uid."""
    spec = opened(item, "spec")
    _complete_spec(spec)
    template = opened(spec, "template")
    if old is None and spec.get("manualSelector") is not True:
        _own_selector(item, spec, template)
    elif old is None:
        labels = part(template, "metadata").get("labels")
        if labels:
            fill(opened(item, "metadata"), {"labels": labels})
    item.setdefault("status", {})


def _complete_spec(spec: JsonObject) -> None:
    """A Job with neither of both numbers is one Pod that has to succeed once."""
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    has_own_limit = spec.get("backoffLimitPerIndex") is not None
    spec.setdefault("backoffLimit", 2**31 - 1 if has_own_limit else 6)
    fill(spec, {"completionMode": "NonIndexed"})
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    policy = spec.get("podFailurePolicy")
    replaced = "TerminatingOrFailed" if policy is None else "Failed"
    fill(spec, {"podReplacementPolicy": replaced})
    _complete_policy(spec)
    complete_template(opened(spec, "template"))


def _complete_policy(spec: JsonObject) -> None:
    for rule in rows(part(spec, "podFailurePolicy").get("rules")):
        for condition in rows(rule.get("onPodConditions")):
            fill(condition, {"status": "True"})


def _own_selector(item: JsonObject, spec: JsonObject, template: JsonObject) -> None:
    metadata = part(item, "metadata")
    labels = opened(opened(template, "metadata"), "labels")
    own: JsonObject = {
        OLD_NAME: metadata.get("name"),
        NAME: metadata.get("name"),
        OLD_UID: metadata.get("uid"),
        UID: metadata.get("uid"),
    }
    labels |= own
    selected = opened(opened(spec, "selector"), "matchLabels")
    selected.setdefault(UID, metadata.get("uid"))
    if not part(item, "metadata").get("labels"):
        opened(item, "metadata")["labels"] = dict(labels)


_CRON: Final[JsonObject] = {"concurrencyPolicy": "Allow"}


def prepare_cronjob(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what a CronJob does not say."""
    spec = opened(item, "spec")
    fill(spec, _CRON)
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)
    job = opened(spec, "jobTemplate")
    opened(job, "metadata")
    inner = opened(job, "spec")
    complete_template(opened(inner, "template"))
    _complete_policy(inner)
    item.setdefault("status", {})


# --- judging --------------------------------------------------------------------------------------


def job_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a Job, and what may not change of it."""
    spec = part(item, "spec")
    found = [*_job(spec, part(item, "metadata"))]
    return found + ([*_job_fixed(spec, part(old, "spec"))] if old is not None else [])


def _job(spec: JsonObject, metadata: JsonObject) -> Iterator[Cause]:
    yield from _spec_faults("spec", spec)
    selector = part(spec, "selector")
    yield from selector_faults("spec.selector", selector)
    if spec.get("manualSelector") is not True:
        wanted = {"matchLabels": {UID: metadata.get("uid")}}
        is_old = selector == {"matchLabels": {OLD_UID: metadata.get("uid")}}
        if selector != wanted and not is_old:
            yield invalid_value("spec.selector", selector, "`selector` not auto-generated")
    template = part(spec, "template")
    if not read_selector(selector).matches(template):
        labels = part(template, "metadata").get("labels")
        why = "`selector` does not match template `labels`"
        yield invalid_value("spec.template.metadata.labels", labels, why)


def _spec_faults(path: str, spec: JsonObject) -> Iterator[Cause]:
    yield from none_negative(
        spec,
        path,
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    )
    yield from _mode_faults(path, spec)
    yield from _policy_faults(f"{path}.podFailurePolicy", spec)
    replaced = spec.get("podReplacementPolicy")
    allowed = ("Failed",) if "podFailurePolicy" in spec else ("Failed", "TerminatingOrFailed")
    yield from known(f"{path}.podReplacementPolicy", replaced, allowed)
    template = part(spec, "template")
    yield from template_faults(f"{path}.template", template)
    policy = part(template, "spec").get("restartPolicy")
    if policy == "Always":
        yield required(f"{path}.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
    elif "podFailurePolicy" in spec and policy == "OnFailure":
        why = 'only "Never" is supported when podFailurePolicy is specified'
        yield invalid_value(f"{path}.template.spec.restartPolicy", policy, why)


def _mode_faults(path: str, spec: JsonObject) -> Iterator[Cause]:
    mode, per_index = spec.get("completionMode"), spec.get("backoffLimitPerIndex")
    if mode not in (None, "NonIndexed", "Indexed"):
        yield unsupported(f"{path}.completionMode", mode, ("NonIndexed", "Indexed"))
    if mode == "Indexed":
        if spec.get("completions") is None:
            why = "when completion mode is Indexed"
            yield required(f"{path}.completions", why)
        width = spec.get("parallelism")
        if isinstance(width, int) and width > MAX_INDEXES:
            why = f"must be less than or equal to {MAX_INDEXES} when completion mode is Indexed"
            yield invalid_value(f"{path}.parallelism", width, why)
    elif per_index is not None:
        yield invalid_value(
            f"{path}.backoffLimitPerIndex", per_index, "requires indexed completion mode"
        )
    if spec.get("maxFailedIndexes") is not None and per_index is None:
        yield required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")


def _policy_faults(path: str, spec: JsonObject) -> Iterator[Cause]:
    for at, rule in enumerate(rows(part(spec, "podFailurePolicy").get("rules"))):
        where = f"{path}.rules[{at}]"
        yield from known(f"{where}.action", rule.get("action"), _ACTIONS, must=True)
        codes, conditions = part(rule, "onExitCodes"), rows(rule.get("onPodConditions"))
        if "onExitCodes" in rule and conditions:
            why = "specifying both OnExitCodes and OnPodConditions is not supported"
            yield invalid_value(where, rule, why)
        elif "onExitCodes" in rule:
            yield from _code_faults(f"{where}.onExitCodes", codes)
        elif not conditions:
            why = "specifying one of OnExitCodes and OnPodConditions is required"
            yield invalid_value(where, rule, why)
        for index, row in enumerate(conditions):
            word = f"{where}.onPodConditions[{index}].status"
            yield from known(word, row.get("status"), ("False", "True", "Unknown"), must=True)


def _code_faults(path: str, codes: JsonObject) -> Iterator[Cause]:
    operator, values = codes.get("operator"), codes.get("values")
    yield from known(f"{path}.operator", operator, ("In", "NotIn"), must=True)
    found: list[Json] = values if isinstance(values, list) else []
    seen: list[Json] = []
    for at, value in enumerate(found):
        if operator == "In" and value == 0:
            yield invalid_value(f"{path}.values[{at}]", 0, "must not be 0 for the In operator")
        if value in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {value}", f"{path}.values[{at}]")
        seen.append(value)
    if not found:
        yield invalid_value(f"{path}.values", [], "at least one value is required")
    elif found != sorted(found, key=str) and found != sorted(seen, key=_number):
        yield invalid_value(f"{path}.values", found, "must be ordered")


def _number(value: Json) -> float:
    return value if isinstance(value, int) else 0


_FIXED = ("selector", "template", "completionMode", "podFailurePolicy", "backoffLimitPerIndex")


def _job_fixed(spec: JsonObject, before: JsonObject) -> Iterator[Cause]:
    for name in _FIXED:
        if name == "template" and spec.get("suspend") is True and before.get("suspend") is True:
            continue  # a Job that does not run may be placed anew
        yield from fixed(f"spec.{name}", before.get(name), spec.get(name))
    old, new = before.get("completions"), spec.get("completions")
    if old != new and not (
        spec.get("completionMode") == "Indexed" and new == spec.get("parallelism")
    ):
        yield invalid_value("spec.completions", new, "field is immutable")


def cron_name_fault(name: str) -> str | None:
    """A CronJob's Jobs add eleven letters to its name."""
    if len(name) > MAX_CRON_NAME:
        return f"must be no more than {MAX_CRON_NAME} characters"
    return subdomain_fault(name)


def _readable(path: str, value: str, read: Callable[[str], object]) -> Iterator[Cause]:
    try:
        read(value)
    except BadRequest as error:
        yield invalid_value(path, value, error.message)


def cronjob_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with a CronJob."""
    return [*_cronjob(part(item, "spec"))]


def _cronjob(spec: JsonObject) -> Iterator[Cause]:
    schedule, zone = text(spec.get("schedule")), spec.get("timeZone")
    if not schedule:
        yield required("spec.schedule")
    elif "TZ" in schedule:
        why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        yield invalid_value("spec.schedule", schedule, why)
    else:
        yield from _readable("spec.schedule", schedule, parse_schedule)
    if isinstance(zone, str):
        yield from _readable("spec.timeZone", zone, find_zone)
    yield from none_negative(spec, "spec", "startingDeadlineSeconds")
    allowed = ("Allow", "Forbid", "Replace")
    yield from known("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), allowed, must=True)
    inner, where = part(spec, "jobTemplate", "spec"), "spec.jobTemplate.spec"
    if inner.get("selector") is not None:
        why = "`selector` will be auto-generated"
        yield invalid_value(f"{where}.selector", inner["selector"], why)
    if inner.get("manualSelector") is True:
        yield unsupported(f"{where}.manualSelector", True, ("nil", "false"))
    yield from _spec_faults(where, inner)
    yield from none_negative(spec, "spec", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
