"""Piggyback commands on the service itself: health, settings, namespaces, cleaning up."""

from __future__ import annotations

from collections.abc import Callable

from gateway.ditto.health import Health
from gateway.ditto.namespaces import Eraser
from gateway.ditto.piggyback import Piggyback, Run
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.upkeep import Upkeep
from gateway.errors import BadRequest, NotBuilt
from gateway.model.entity_id import is_namespace
from gateway.model.json import Json, JsonObject


class OperationPiggybacks:
    """Commands of operators.

    Shape:  `config_at` gives the settings below a path.
    """

    def __init__(
        self,
        things: ThingsService,
        policies: PoliciesService,
        upkeep: Upkeep,
        config_at: Callable[[str], Json],
    ) -> None:
        self._things = things
        self._policies = policies
        self._upkeep = upkeep
        self._config_at = config_at
        self._health = Health(policies.store)
        self._eraser = Eraser(policies.store, policies.namespaces, self._forget)

    def table(self) -> dict[str, Run]:
        """Type to what runs it."""
        return {
            "status.commands:retrieveHealth": self._retrieve_health,
            "common.commands:retrieveConfig": self._retrieve_config,
            "common.commands:shutdown": self._shutdown,
            "namespaces.commands:blockNamespace": self._block,
            "namespaces.commands:unblockNamespace": self._unblock,
            "namespaces.commands:purgeNamespace": self._purge,
            "cleanup.sudo.commands:cleanupPersistence": self._clean,
        }

    async def _retrieve_health(self, _asked: Piggyback) -> JsonObject:
        return {"statusInfo": await self._health.tree()}

    async def _retrieve_config(self, asked: Piggyback) -> JsonObject:
        path = asked.command.get("path")
        return {"config": self._config_at(path if isinstance(path, str) else "")}

    # --- namespaces -------------------------------------------------------------------------------

    async def _block(self, asked: Piggyback) -> JsonObject:
        namespace = _namespace(asked.text("namespace"))
        self._policies.namespaces.block(namespace)
        return _of_namespace(namespace)

    async def _unblock(self, asked: Piggyback) -> JsonObject:
        namespace = _namespace(asked.text("namespace"))
        self._policies.namespaces.unblock(namespace)
        return _of_namespace(namespace)

    async def _shutdown(self, asked: Piggyback) -> JsonObject:
        """Of a namespace: what is in memory of it goes. Of anything else: not by this way."""
        reason = asked.command.get("reason")
        told = reason if isinstance(reason, dict) else {}
        if told.get("type") != "purge-namespace":
            raise NotBuilt("'shutdown' is built for the reason 'purge-namespace' alone.")
        namespace = _namespace(str(told.get("details", "")))
        self._forget(namespace)
        return {"message": f"Shut down <{namespace}>."}

    async def _purge(self, asked: Piggyback) -> JsonObject:
        namespace = _namespace(asked.text("namespace"))
        erased = await self._eraser.purge(namespace)
        return {**_of_namespace(namespace), "successful": True, "erased": erased}

    def _forget(self, namespace: str) -> None:
        self._things.memory.forget(namespace)
        self._policies.memory.forget(namespace)

    # --- cleaning up ------------------------------------------------------------------------------

    async def _clean(self, asked: Piggyback) -> JsonObject:
        """Drop history past its retention now, of all entities of the kind."""
        entity = asked.text("entityId")
        if entity.startswith("policy:"):
            deleted = await self._upkeep.forget_policies()
        else:
            deleted = await self._upkeep.forget_things()
        return {"entityId": entity, "deleted": deleted}


def _namespace(text: str) -> str:
    if not is_namespace(text):
        raise BadRequest(f"'{text[:200]}' is no namespace.", code="namespacedentity.id.invalid")
    return text


def _of_namespace(namespace: str) -> JsonObject:
    return {"namespace": namespace, "resourceType": "namespaces"}
