"""Device passwords: hashing new ones, checking against a credential's secrets.

bcrypt runs in threads (`gateway.runtime.passwords`), the SHA functions at once.
Full: StoreUnavailable. Source: Hono Credentials API, hashed-password: base64(H(salt then UTF-8 password))
for the SHA functions, `$2a$` strings for bcrypt.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from gateway.errors import GatewayError, StoreUnavailable
from gateway.model.credentials_json import BCRYPT, FUNCTION, HASH, SALT, SHA_256, SHA_512
from gateway.model.registry import Secret
from gateway.runtime.passwords import HashPool, hash_bcrypt, matches_bcrypt

log = logging.getLogger(__name__)

MAX_QUEUE = 1_000
DEFAULT_COST = 10
_DIGESTS = {SHA_256: hashlib.sha256, SHA_512: hashlib.sha512}


def is_slow(secret: Secret) -> bool:
    """True when checking against this secret needs a thread."""
    return secret.data.get(FUNCTION) == BCRYPT


def matches(secret: Secret, password: bytes) -> bool:
    """True when `password` is what the secret was made from; a broken secret never matches."""
    expected = secret.data.get(HASH)
    if expected is None:
        return False
    if is_slow(secret):
        return matches_bcrypt(password, expected.encode())
    digest = _DIGESTS.get(secret.data.get(FUNCTION, SHA_256))
    if digest is None:
        return False
    salt = base64.b64decode(secret.data.get(SALT, ""))
    return hmac.compare_digest(digest(salt + password).digest(), base64.b64decode(expected))


class PasswordPool:
    """Slow hashes of device passwords; starts with the first work, ends with `close`."""

    def __init__(self, *, cost: int = DEFAULT_COST, max_queue: int = MAX_QUEUE) -> None:
        self._cost = cost
        self.limit = max_queue
        self._pool = HashPool(max_queue=max_queue)

    @property
    def depth(self) -> int:
        """How many hashes wait or run."""
        return self._pool.depth

    async def hash(self, password: str) -> str:
        """Return the bcrypt hash of a new password.

        Errors: StoreUnavailable when too many wait.
        """
        work = partial(hash_bcrypt, password, self._cost)
        return await asyncio.wrap_future(self._pool.submit(work))

    def check(
        self,
        secrets: tuple[Secret, ...],
        password: bytes,
        done: Callable[[Secret | GatewayError | None], None],
    ) -> None:
        """Find the first secret that matches; `done` is called on the loop.

        Errors (through `done`): StoreUnavailable when too many wait or the pool ends.
        """
        try:
            future = self._pool.submit(partial(_first_match, secrets, password))
        except StoreUnavailable as error:
            done(error)
            return
        future.add_done_callback(partial(_tell, asyncio.get_running_loop(), done))

    def close(self) -> None:
        """Stop the threads after what runs now; what waits is answered with StoreUnavailable."""
        self._pool.close()


def _first_match(secrets: tuple[Secret, ...], password: bytes) -> Secret | None:
    return next((secret for secret in secrets if matches(secret, password)), None)


def _tell(
    loop: asyncio.AbstractEventLoop,
    done: Callable[[Secret | GatewayError | None], None],
    future: Future[Secret | None],
) -> None:
    """Carry the answer from the pool's thread to the loop."""
    answer: Secret | GatewayError | None
    if future.cancelled():
        answer = StoreUnavailable("the authenticator is stopping")
    elif (error := future.exception()) is not None:
        log.error("a password check failed", exc_info=error)
        answer = GatewayError()
    else:
        answer = future.result()
    if not loop.is_closed():
        loop.call_soon_threadsafe(done, answer)
