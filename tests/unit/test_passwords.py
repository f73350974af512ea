"""What all who check passwords share: hash functions, the bounded pool, the memory."""

from __future__ import annotations

import threading

import bcrypt
import pytest

from gateway.errors import StoreUnavailable
from gateway.runtime.passwords import (
    NOBODY,
    HashPool,
    RightPasswords,
    hash_bcrypt,
    matches_bcrypt,
)


def test_a_hash_matches_its_password_alone() -> None:
    hashed = hash_bcrypt("secret", 4).encode()
    assert hashed.startswith(b"$2a$04$")
    assert matches_bcrypt(b"secret", hashed)
    assert not matches_bcrypt(b"Secret", hashed)
    assert not matches_bcrypt(b"secret", b"plain")


def test_a_long_password_is_cut_as_bcrypt_does() -> None:
    hashed = hash_bcrypt("x" * 100, 4).encode()
    assert matches_bcrypt(b"x" * 90, hashed)
    assert not matches_bcrypt(b"x" * 71, hashed)


def test_nobodys_hash_is_one_that_is_really_computed() -> None:
    assert bcrypt.checkpw(b"guess", NOBODY.encode()) is False


def test_a_full_pool_refuses_and_goes_on_later() -> None:
    pool = HashPool(max_queue=2)
    gate = threading.Event()
    waiting = [pool.submit(gate.wait) for _ in range(2)]
    with pytest.raises(StoreUnavailable, match="too many"):
        pool.submit(gate.wait)
    gate.set()
    assert all(future.result(5) for future in waiting)
    assert pool.submit(lambda: 3).result(5) == 3
    pool.close()


def test_a_closed_pool_starts_nothing() -> None:
    pool = HashPool(max_queue=2)
    pool.close()
    with pytest.raises(StoreUnavailable):
        pool.submit(lambda: 1)


class Memory(RightPasswords[str]):
    """A memory with a hand-moved clock."""

    def __init__(self) -> None:
        self.time = 0.0
        super().__init__(capacity=2, now=lambda: self.time)


def test_what_is_kept_is_found_until_its_time_is_over() -> None:
    memory = Memory()
    mark = memory.mark(b"ann", b"secret")
    assert memory.find(mark) is None
    memory.keep(mark, "ann", 10.0)
    assert memory.find(memory.mark(b"ann", b"secret")) == "ann"
    memory.time = 10.0
    assert memory.find(mark) is None


def test_a_mark_tells_where_its_parts_end() -> None:
    memory = Memory()
    assert memory.mark(b"ann", b"bob") != memory.mark(b"annb", b"ob")
    assert memory.mark(b"ann") != Memory().mark(b"ann"), "each process has a key of its own"


def test_the_oldest_goes_first_and_what_is_kept_anew_is_young() -> None:
    memory = Memory()
    one, two, three = (memory.mark(name) for name in (b"1", b"2", b"3"))
    memory.keep(one, "1", 9.0)
    memory.keep(two, "2", 9.0)
    memory.keep(one, "1", 9.0)
    memory.keep(three, "3", 9.0)
    assert [memory.find(mark) for mark in (one, two, three)] == ["1", None, "3"]
    memory.forget(lambda value: value == "1")
    assert memory.find(one) is None
