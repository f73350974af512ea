"""What an adapter checks and counts of commands where an existing Hono routes them.

Our own router does so itself; Hono's leaves the data volume, and the meters of commands that it could
forward, to the adapters.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.errors import GatewayError, QuotaExceeded, Rejected
from gateway.hono.limits import Usage
from gateway.hono.meters import CommandMeter, Direction
from gateway.hono.registry_view import RegistryView
from gateway.model.message import Command
from gateway.model.ports import Done
from gateway.model.registry import Tenant
from gateway.observe.metrics import Metrics

ROUTER = "hono-command-router"


class CommandGate:
    """Lets commands pass within their tenant's data volume."""

    def __init__(self, registry: RegistryView, usage: Usage, metrics: Metrics) -> None:
        self._registry = registry
        self._usage = usage
        self._meter = CommandMeter(metrics)

    def pass_on(self, command: Command, deliver: Callable[[Done], None], done: Done) -> None:
        """Deliver a command and account for it.

        Errors (through `done`): Rejected over the data volume; what `deliver` says.
        """
        started = time.perf_counter()

        def with_tenant(found: Tenant | GatewayError) -> None:
            if isinstance(found, GatewayError):
                done(found)
                return
            size = found.metered_size(len(command.payload))

            def ended(error: GatewayError | None) -> None:
                if error is None:
                    self._usage.add_bytes(found, size)
                kind = Direction.ONE_WAY if command.is_one_way else Direction.REQUEST
                seconds = time.perf_counter() - started
                self._meter.record(found.tenant_id, kind, error, ROUTER, seconds, size)
                done(error)

            if self._usage.would_exceed(found, size):
                ended(Rejected(QuotaExceeded.default_message, status=429))
            else:
                deliver(ended)

        self._registry.find_tenant(command.tenant, with_tenant)
