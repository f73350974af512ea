"""Correlation ids that the server makes."""

from __future__ import annotations

import uuid

from gateway.ditto.correlation import new_correlation_id


def test_ids_are_random_uuids_and_none_comes_twice() -> None:
    made = [new_correlation_id() for _ in range(2_000)]
    assert len(set(made)) == len(made)
    for text in made:
        found = uuid.UUID(text)
        assert str(found) == text
        assert (found.version, found.variant) == (4, uuid.RFC_4122)


def test_every_part_of_an_id_is_random() -> None:
    made = [new_correlation_id().replace("-", "") for _ in range(2_000)]
    fixed = [at for at in range(32) if len({one[at] for one in made}) == 1]
    assert fixed == [12, 16], "the version and the variant"
