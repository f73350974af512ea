"""The Web of Things in the things service: models are in memory before anything is decided by them.

A change of a thing without an http(s) URL as definition costs two look-ups and nothing else. Where models are
needed, the command waits in its thing's lane until they are there (at most `resolve_seconds`); then the same
pure decision runs again, with them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.config.wot import WotSkeleton
from gateway.ditto.lane import Resume, Wait
from gateway.ditto.wot_models import Found, ThingModels
from gateway.errors import GatewayError
from gateway.model.thing import Thing, ThingCommand, ThingMessage, ThingMessageResponse
from gateway.twin.things import Decision
from gateway.twin.wot.creation import (
    is_creation,
    needed_by,
    needed_by_message,
    with_skeleton,
)
from gateway.twin.wot.model import Judge, ThingModel

log = logging.getLogger(__name__)

MAX_HELD: Final = 1_000
"""Commands and messages whose models were just brought."""

Decide = Callable[[ThingCommand], Decision]


@dataclass(frozen=True, slots=True)
class Ready:
    """The models of one decision."""

    found: Found

    def get(self, url: str) -> ThingModel | None:
        one = self.found.get(url)
        return one if isinstance(one, ThingModel) else None

    def error(self, urls: Iterable[str]) -> GatewayError | None:
        """Why the first of these that is not there is not."""
        for url in sorted(urls):
            one = self.found.get(url)
            if isinstance(one, GatewayError):
                return one
            for submodel in one.submodels if one is not None else ():
                below = self.found.get(submodel.href)
                if isinstance(below, GatewayError):
                    return below
        return None


class WotHook:
    """What the things service asks at each change and message. `judge` is None where nothing is validated."""

    def __init__(
        self, models: ThingModels, settings: WotSkeleton, judge: Judge | None = None
    ) -> None:
        self._models = models
        self._settings = settings
        self._judge = judge
        self._held: OrderedDict[str, tuple[object, Found]] = OrderedDict()

    def settled(self, job: ThingCommand, decision: Decision, decide: Decide) -> Decision:
        """A decision with what the models say about it; `decide` decides a completed command.

        Shape:  `job` is the command as it stands in the lane, decided as `decision`.
        Errors: Wait while models are on their way; `wot:tm.notfound` and its like where one cannot be had
                and the settings do not pass over that; what the judge raises.
        """
        event = decision.event
        if event is None:
            return decision
        is_new = self._settings.enabled and is_creation(job, event)
        if self._judge is None and not is_new:
            return decision
        needed = needed_by(event)
        if not needed.urls:
            return decision
        is_judged = self._judge is not None and self._judge.wants_change(job, event)
        if not is_new and not is_judged:
            return decision
        ready = self._ready(job.thing_id, job, needed.urls)
        self._check(ready, needed.after, job.thing_id)
        if is_new:
            optional = self._settings.optional_properties
            completed = with_skeleton(job, event, ready, optional=optional)
            if completed is not job:
                decision = decide(completed)
        if self._judge is not None and decision.event is not None:
            self._judge.change(job, decision.event, ready)
        return decision

    def models_of(self, job: ThingCommand, url: str) -> Ready:
        """The model of one URL and its submodels, for a command that cannot do without.

        Errors: Wait while it is on its way; `wot:tm.notfound` and its like.
        """
        held = self._held.get(job.thing_id)
        urls = frozenset((url,))
        if held is not None and held[0] is job and urls <= held[1].keys():
            ready = Ready(held[1])  # it stays held: what follows the decision needs more of it
        else:
            ready = self._ready(job.thing_id, job, urls)
        error = ready.error(urls)
        if error is not None:
            raise error.with_traceback(None)
        return ready

    def message(self, message: ThingMessage, thing: Thing) -> None:
        """Judge a message that its sender may send.

        Errors: as `settled`.
        """
        if self._judge is None:
            return
        urls = needed_by_message(message, thing)
        if urls and self._judge.wants_message(message, thing):
            ready = self._ready(thing.thing_id, message, urls)
            self._check(ready, urls, thing.thing_id)
            self._judge.message(message, thing, ready)

    def response(
        self, message: ThingMessage, answer: ThingMessageResponse, thing: Thing | None
    ) -> None:
        """Judge a device's answer; its models were there when the message was sent.

        Errors: what the judge raises.
        """
        if self._judge is None or thing is None:
            return
        urls = needed_by_message(message, thing)
        found = self._models.look(urls) if urls else None
        if found is not None:
            self._judge.response(message, answer, thing, Ready(found))

    def _check(self, ready: Ready, urls: Iterable[str], thing_id: str) -> None:
        error = ready.error(urls)
        if error is None:
            return
        if self._settings.throw_on_errors:
            raise error.with_traceback(None)
        log.info("thing model passed over", extra={"thing": thing_id, "cause": error.message})

    # --- waiting ----------------------------------------------------------------------------------

    def _ready(self, thing_id: str, job: object, urls: frozenset[str]) -> Ready:
        """The models from memory, or those that were brought for this very job; raises Wait."""
        held = self._held.pop(thing_id, None)
        if held is not None and held[0] is job and urls <= held[1].keys():
            return Ready(held[1])
        found = self._models.look(urls)
        if found is not None:
            return Ready(found)
        raise Wait(lambda resume: self._begin(thing_id, job, urls, resume))

    def _begin(self, thing_id: str, job: object, urls: frozenset[str], resume: Resume) -> None:
        try:
            self._models.start(self._bring(thing_id, job, urls, resume))
        except GatewayError as error:
            resume(error)

    async def _bring(
        self, thing_id: str, job: object, urls: frozenset[str], resume: Resume
    ) -> None:
        try:
            found = await self._models.gather(urls)
        except GatewayError as error:
            resume(error)
            return
        except Exception:  # top of one task: the lane goes on
            log.exception("thing models could not be brought", extra={"thing": thing_id})
            resume(GatewayError())
            return
        self._held[thing_id] = (job, found)
        while len(self._held) > MAX_HELD:
            self._held.popitem(last=False)
        resume(None)
