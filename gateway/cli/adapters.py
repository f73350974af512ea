"""`twinspan adapters`: the adapters of devices alone, for registry, router and messaging elsewhere."""

from __future__ import annotations

from typing import Any

import click

from gateway.cli import exposure
from gateway.cli.options import settings_of
from gateway.cli.run import start_options
from gateway.cli.serving import NOBODY, Process, run_modules
from gateway.config import Settings
from gateway.errors import InvalidSetting
from gateway.hono.remote_services.connection import UNIX
from gateway.observe import logs
from gateway.runtime import process
from gateway.runtime.listener import parse_bind
from gateway.southbound import build_adapters


@click.command()
@start_options
def adapters(**options: Any) -> None:
    """Run only the protocol adapters, for an existing Hono (`hono.services`).

    \b
    twinspan adapters --set hono.services.messaging.address=router.example:5673 \\
        --set hono.services.registry.address=registry.example:5671 \\
        --set hono.services.command_router.address=command-router.example:5671 -f secrets.yaml
    """
    flags = [f"{flag}=true" for flag in ("demo", "insecure") if options[flag]]
    settings = settings_of(options["file"], options["sets"], options["data_dir"], *flags)
    exposure.check(settings)
    _check_passwords(settings)
    logs.set_up(settings.observe.logs.level, settings.observe.logs.form)
    with process.only_one(settings.data_dir):
        process.run(run_modules(Process(settings, NOBODY), build_adapters))


def _check_passwords(settings: Settings) -> None:
    """Refuse to send passwords in plain text to other machines.

    Errors: InvalidSetting.
    """
    services = settings.hono.services
    for name in ("messaging", "registry", "command_router"):
        peer = getattr(services, name)
        if not peer.address or peer.address.startswith(UNIX) or peer.tls or settings.insecure:
            continue
        path = f"hono.services.{name}"
        if peer.username and not exposure.is_loopback(parse_bind(peer.address, path)[0]):
            raise InvalidSetting(
                f"{path}.tls: expected true, {peer.address} is another machine and would get the"
                " password in plain text; accept that with --insecure"
            )
