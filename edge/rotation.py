"""A new certificate in time: at 70 to 90 % of the old one's life, asked for with the old one.

Where in that span is drawn from the serial, so that a fleet that joined in one hour does not renew in one
minute, and a restart does not draw again. The link is made anew with the new certificate.

Source: KubeEdge reference, section 4.5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from edge.clock import now_ms
from edge.validity import Validity, read_validity
from gateway.errors import GatewayError
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

EARLIEST, SPAN = 0.7, 0.2
RETRY_FIRST, RETRY_CAP = 2.0, 600.0
LOOK_SECONDS = 3_600.0
"""How often the clock is looked at: it may be set meanwhile."""


def moment(validity: Validity) -> float:
    """Return when to renew, Unix seconds."""
    share = EARLIEST + SPAN * (validity.serial % 1_000) / 1_000
    return validity.not_before + share * (validity.not_after - validity.not_before)


def certificate_end(file: Path) -> float:
    """Return when a certificate ends, Unix seconds. Errors: OSError, ValueError."""
    try:
        return read_validity(file.read_text("ascii")).not_after
    except GatewayError as error:
        raise ValueError(error.message) from error


class Rotation:
    """The watch over one certificate, as a module.

    Shape:  `certificate` tells the file at each look; `renew` gets and saves a new one; `renewed` is told.
    """

    name = "edge.rotation"

    def __init__(
        self,
        certificate: Callable[[], Path],
        renew: Callable[[], Awaitable[None]],
        renewed: Callable[[], None],
    ) -> None:
        self._certificate = certificate
        self._renew = renew
        self._renewed = renewed

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        while True:
            try:
                wait = await self._look()
                backoff.reset()
            except (GatewayError, OSError) as error:
                log.warning("the certificate cannot be renewed", extra={"cause": str(error)})
                wait = backoff.next()
            await asyncio.sleep(min(wait, LOOK_SECONDS))

    async def _look(self) -> float:
        """Renew when it is time; return how many seconds there are to the next time."""
        wait = self._wait()
        if wait > 0:
            return wait
        await self._renew()
        log.info("the certificate is renewed")
        self._renewed()
        return max(
            self._wait(), RETRY_CAP
        )  # a cloud that issues very short ones is not asked for ever

    def _wait(self) -> float:
        validity = read_validity(self._certificate().read_text("ascii"))
        return moment(validity) - now_ms() / 1_000
