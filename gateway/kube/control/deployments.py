"""Deployments: ReplicaSets that follow each other, one for each template, and how Pods move between them.

A run looks at one Deployment and does the next step; what that changes asks for the next run. All that is
to be remembered stands in the objects (the hash in a set's name, revisions and sizes in annotations,
progress in a condition), so a restart goes on where it was. Source: Kubernetes "Deployment".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.errors import GatewayError, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import controller_uid, key_of, metadata_of, uid_of
from gateway.kube.control.pods_of import Claims, OwnerKind, is_namespace_ending
from gateway.kube.control.replicasets import REPLICA_SET
from gateway.kube.events import NORMAL, WARNING
from gateway.kube.informer import Change, Key
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.deployments import (
    CREATE_ERROR,
    CREATED,
    FOUND,
    REVISION,
    current_set,
    deployment_status,
    has_deadline,
    is_complete,
    new_set,
    next_revision,
    noted_set,
    pause_condition,
    progress_of,
    progressing,
    revision_of,
    rollout_status,
    same_template,
    seconds_to_deadline,
    surplus_sets,
    with_condition,
)
from gateway.wire.kube.parts import annotations_of, part, whole
from gateway.wire.kube.podstate import is_deleting, is_ended
from gateway.wire.kube.replicas import selector_of, wanted
from gateway.wire.kube.rollouts import (
    Resize,
    emptied,
    is_rolling,
    is_scaled,
    new_set_resize,
    old_set_resizes,
    scale_resizes,
    size_annotations,
)
from gateway.wire.kube.status import AlreadyExists

DEPLOYMENT = OwnerKind("apps/v1", "deployments", "Deployment", "deployment-controller")
SETS = REPLICA_SET.group_version, REPLICA_SET.plural
PLACE = DEPLOYMENT.group_version, DEPLOYMENT.plural
SCALED = "ScalingReplicaSet"


@dataclass(slots=True)
class _Turn:
    """A Deployment and its sets during one run; what was written is known here at once."""

    deployment: JsonObject
    new: JsonObject | None
    olds: list[JsonObject] = field(default_factory=list)

    @property
    def sets(self) -> list[JsonObject]:
        return self.olds if self.new is None else [*self.olds, self.new]

    def put(self, item: JsonObject) -> None:
        """Take in a set as it was stored."""
        if self.new is not None and uid_of(self.new) == uid_of(item):
            self.new = item
        else:
            self.olds = [item if uid_of(old) == uid_of(item) else old for old in self.olds]

    def set_of(self, name: str) -> JsonObject:
        return next(item for item in self.sets if metadata_of(item).get("name") == name)


class Deployments:
    """The control loop."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kube = context.kube
        self._claims = Claims(context, DEPLOYMENT, SETS)
        self._pods = context.mirrors.of("v1", "pods")
        self._pods_of_set = self._pods.index("controller", controller_uid)
        self._loop: Loop[Key] = Loop(self._settle)
        self._claims.listen(self._loop.poke)
        self._sets_of_pods = Claims(context, REPLICA_SET, ("v1", "pods"))
        self._pods.on_change(self._on_pod)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    def _on_pod(self, change: Change) -> None:
        """Who recreates waits until the last old Pod is gone."""
        if change.new is not None or change.old is None:
            return
        owner = self._sets_of_pods.owner_of(change.old)
        deployment = None if owner is None else self._claims.owner_of(owner)
        if deployment is not None and not is_rolling(deployment):
            self._loop.poke(key_of(deployment))

    async def _settle(self, key: Key) -> None:
        deployment = self._claims.owners.get(*key)
        if deployment is None:
            self._loop.forget(key)
            return
        selector = selector_of(deployment)
        if selector is None:
            await self._refuse(deployment)
            return
        sets = await self._claims.claim(deployment, selector)
        try:
            await self._step(key, _turn(deployment, sets))
        except GatewayError as error:
            if not is_namespace_ending(error):
                raise

    async def _step(self, key: Key, turn: _Turn) -> None:
        if is_deleting(turn.deployment):
            await self._note_revision(turn)
            await self._report(turn)
            return
        await self._note_pause(turn)
        is_paused = part(turn.deployment, "spec").get("paused") is True
        await self._note_revision(turn)
        if is_paused or is_scaled(turn.deployment, turn.sets):
            await self._scale(turn, is_paused=is_paused)
        elif is_rolling(turn.deployment):
            await self._roll(turn)
            await self._report_rollout(key, turn)
        else:
            await self._recreate(turn)
            await self._report_rollout(key, turn)

    async def _refuse(self, deployment: JsonObject) -> None:
        text = "This deployment is selecting all pods. A non-empty selector is required."
        self._tell(deployment, "SelectingAll", text, WARNING)
        generation = metadata_of(deployment).get("generation")
        status = part(deployment, "status")
        if status.get("observedGeneration") != generation:
            turn = _Turn(deployment, None)
            await self._write(turn, {**status, "observedGeneration": generation})

    # --- ways to roll -----------------------------------------------------------------------------

    async def _scale(self, turn: _Turn, *, is_paused: bool) -> None:
        """Another number of replicas: no step of a rollout until it is spread."""
        await self._resize(turn, scale_resizes(turn.deployment, turn.new, turn.olds))
        if is_paused:
            await self._clean_up(turn)
        await self._report(turn)

    async def _roll(self, turn: _Turn) -> None:
        new = turn.new if turn.new is not None else await self._create_set(turn)
        if await self._resize(turn, new_set_resize(turn.deployment, new, turn.olds)):
            return
        new = turn.new if turn.new is not None else new
        if await self._resize(turn, old_set_resizes(turn.deployment, new, turn.olds)):
            return
        await self._clean_up_after(turn)

    async def _recreate(self, turn: _Turn) -> None:
        if await self._resize(turn, emptied(turn.olds)) or self._has_old_pods(turn):
            return
        new = turn.new if turn.new is not None else await self._create_set(turn)
        await self._resize(turn, new_set_resize(turn.deployment, new, turn.olds))
        await self._clean_up_after(turn)

    def _has_old_pods(self, turn: _Turn) -> bool:
        if any(whole(part(item, "status").get("replicas")) for item in turn.olds):
            return True
        pods = (pod for item in turn.olds for pod in self._pods_of_set.get(uid_of(item)))
        return any(not is_ended(pod) for pod in pods)

    # --- sets -------------------------------------------------------------------------------------

    async def _resize(self, turn: _Turn, steps: Sequence[Resize]) -> bool:
        """Give sets their sizes; True when one has another size now."""
        is_changed = False
        for step in steps:
            item = turn.set_of(step.name)
            notes: dict[str, Json] = {**annotations_of(item), **size_annotations(turn.deployment)}
            if wanted(item) == step.after and notes == annotations_of(item):
                continue
            metadata: JsonObject = {**metadata_of(item), "annotations": notes}
            spec: JsonObject = {**part(item, "spec"), "replicas": step.after}
            await self._update_set(turn, {**item, "metadata": metadata, "spec": spec})
            if step.before != step.after:
                is_changed = True
                self._tell(turn.deployment, SCALED, step.text)
        return is_changed

    async def _update_set(self, turn: _Turn, item: JsonObject) -> None:
        namespace = key_of(item)[0]
        stored = await self._kube.update(*SETS, namespace, REPLICA_SET.named(item))
        self._claims.mirror.put(stored)
        turn.put(stored)

    async def _create_set(self, turn: _Turn) -> JsonObject:
        """Create the set of a new template, and say so."""
        deployment = turn.deployment
        fresh = new_set(deployment, DEPLOYMENT.reference(deployment), turn.olds)
        try:
            stored = await self._kube.create(*SETS, key_of(deployment)[0], fresh)
        except AlreadyExists:
            stored = await self._existing(turn, fresh)
        except GatewayError as error:
            await self._tell_failure(turn, fresh, error)
            raise
        self._claims.mirror.put(stored)
        turn.new = stored
        if wanted(stored):
            self._tell(deployment, SCALED, Resize(key_of(stored)[1], 0, wanted(stored)).text)
        text = f'Created new replica set "{key_of(stored)[1]}"'
        await self._note_revision(turn, progressing("True", CREATED, text, self._now()))
        return stored

    async def _existing(self, turn: _Turn, fresh: JsonObject) -> JsonObject:
        """The set that has the name already is ours, or the name has to be another one.

        Errors: AlreadyExists: the next run takes another name.
        """
        deployment = turn.deployment
        found = await self._kube.get(*SETS, *key_of(fresh))
        template = part(deployment, "spec", "template")
        is_ours = controller_uid(found) == (uid_of(deployment),)
        if is_ours and same_template(template, part(found, "spec", "template")):
            return found
        status = part(deployment, "status")
        count = whole(status.get("collisionCount")) + 1
        await self._write(turn, {**status, "collisionCount": count})
        raise AlreadyExists(f"{'/'.join(key_of(fresh))} is another one's")

    async def _tell_failure(self, turn: _Turn, fresh: JsonObject, error: GatewayError) -> None:
        if is_namespace_ending(error):
            return
        text = f'Failed to create new replica set "{key_of(fresh)[1]}": {error.message}'
        self._tell(turn.deployment, CREATE_ERROR, text, WARNING)
        if has_deadline(turn.deployment):
            said = progressing("False", CREATE_ERROR, text, self._now())
            await self._write(turn, with_condition(part(turn.deployment, "status"), said))

    async def _clean_up_after(self, turn: _Turn) -> None:
        if is_complete(turn.deployment, part(turn.deployment, "status")):
            await self._clean_up(turn)

    async def _clean_up(self, turn: _Turn) -> None:
        """Delete the sets that history does not keep."""
        for item in surplus_sets(turn.deployment, turn.olds):
            if self._claims.mirror.is_doomed(item):
                continue
            try:
                await self._kube.delete(*SETS, *key_of(item), uid=uid_of(item))
            except NotFound:
                continue
            self._claims.mirror.doom(item)

    # --- what the Deployment says -----------------------------------------------------------------

    async def _note_revision(self, turn: _Turn, said: JsonObject | None = None) -> None:
        """The current set is the newest revision; the Deployment says which, and how it goes."""
        if turn.new is None:
            return
        noted = noted_set(turn.deployment, turn.new, next_revision(turn.olds))
        if noted is not turn.new:
            await self._update_set(turn, noted)
        status = part(turn.deployment, "status")
        if said is None and progress_of(status) is None:
            text = f'Found new replica set "{key_of(turn.new)[1]}"'
            said = progressing("True", FOUND, text, self._now())
        if said is not None and has_deadline(turn.deployment):
            status = with_condition(status, said)
        await self._write(turn, status)

    async def _note_pause(self, turn: _Turn) -> None:
        said = pause_condition(turn.deployment, self._now())
        if said is not None:
            await self._write(turn, with_condition(part(turn.deployment, "status"), said))

    async def _report(self, turn: _Turn) -> None:
        status = deployment_status(turn.deployment, turn.sets, turn.new, self._now())
        await self._write(turn, status)

    async def _report_rollout(self, key: Key, turn: _Turn) -> None:
        status = rollout_status(turn.deployment, turn.sets, turn.new, self._now())
        await self._write(turn, status)
        wait = seconds_to_deadline(turn.deployment, self._context.now())
        if wait is not None:
            self._loop.poke_after(key, wait)

    async def _write(self, turn: _Turn, status: JsonObject) -> None:
        """Store the status and the revision, when either is new. Errors: Conflict: look again."""
        deployment = turn.deployment
        notes: dict[str, Json] = dict(annotations_of(deployment))
        if turn.new is not None and revision_of(turn.new):
            notes[REVISION] = annotations_of(turn.new)[REVISION]
        if status == part(deployment, "status") and notes == annotations_of(deployment):
            return
        metadata: JsonObject = {**metadata_of(deployment), "annotations": notes}
        body: JsonObject = {**DEPLOYMENT.named(deployment), "metadata": metadata, "status": status}
        stored = await self._kube.update(*PLACE, key_of(deployment)[0], body, subresource="status")
        self._claims.owners.put(stored)
        turn.deployment = stored

    def _now(self) -> str:
        return rfc3339(self._context.now())

    def _tell(self, item: JsonObject, reason: str, text: str, type_: str = NORMAL) -> None:
        about = DEPLOYMENT.named(item)
        self._context.events.record(
            about, reason, text, type_=type_, component=DEPLOYMENT.component
        )


def _turn(deployment: JsonObject, sets: list[JsonObject]) -> _Turn:
    new = current_set(deployment, sets)
    return _Turn(deployment, new, [item for item in sets if item is not new])
