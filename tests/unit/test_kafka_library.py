"""The Kafka client is an extra: not loaded without need, missed with a clear word, its log is ours."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from gateway.errors import InvalidSetting
from gateway.hono import kafka_library
from gateway.hono.kafka_library import LibraryLog, Seldom, library, made


def test_a_gateway_without_kafka_does_not_load_its_client() -> None:
    program = "import sys, gateway.core; sys.exit('confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_missing_client_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(InvalidSetting, match=r"pip install 'twinspan\[kafka\]'"):
        library()


def test_a_client_that_cannot_be_made_is_a_bad_setting() -> None:
    with pytest.raises(InvalidSetting, match=r"^hono\.kafka: .*group\.id"):
        made(library().Consumer, {"bootstrap.servers": "b:1"})


def test_the_library_s_lines_are_facts_under_constant_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    LibraryLog().log(logging.ERROR, "%s [%s] %s", "FAIL", "thrd", "refused")
    [record] = caplog.records
    assert (record.message, record.levelno) == ("kafka client", logging.WARNING)
    assert record.__dict__["line"] == "FAIL [thrd] refused"


def test_a_trouble_that_goes_on_is_said_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.hono.kafka_library.time.monotonic", lambda: now)
    seldom = Seldom()
    assert [seldom.is_due("away"), seldom.is_due("away"), seldom.is_due("other")] == [
        True,
        False,
        True,
    ]
    now += kafka_library.SAME_SECONDS
    assert seldom.is_due("away")
