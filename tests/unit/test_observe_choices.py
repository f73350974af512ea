"""Settings go before OTEL_* variables, those of one signal before those of all, those before defaults."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.config.observe import Otlp, Traces
from gateway.errors import InvalidSetting
from gateway.observe.otlp_choices import destination, is_on, resource, sampling

ALL = "OTEL_EXPORTER_OTLP_"


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        (Otlp(), {}, "http://127.0.0.1:4318/v1/traces"),
        (Otlp(protocol="grpc"), {}, "http://127.0.0.1:4317"),
        (Otlp(), {ALL + "PROTOCOL": "grpc"}, "http://127.0.0.1:4317"),
        (Otlp(), {ALL + "ENDPOINT": "http://c:1/"}, "http://c:1/v1/traces"),
        (
            Otlp(),
            {ALL + "TRACES_ENDPOINT": "http://c:1/x", ALL + "ENDPOINT": "http://d:1"},
            "http://c:1/x",
        ),
        (
            Otlp(endpoint="http://s:1"),
            {ALL + "TRACES_ENDPOINT": "http://c:1/x"},
            "http://s:1/v1/traces",
        ),
    ],
    ids=["default", "grpc", "protocol variable", "base", "signal", "setting"],
)
def test_the_endpoint_is_found(
    settings: Otlp, environment: Mapping[str, str], expected: str
) -> None:
    assert destination(settings, "traces", environment).endpoint == expected


def test_a_signal_does_not_take_the_endpoint_of_another() -> None:
    environment = {ALL + "TRACES_ENDPOINT": "http://c:1/x"}
    assert destination(Otlp(), "logs", environment).endpoint == "http://127.0.0.1:4318/v1/logs"


def test_headers_are_decoded_and_settings_go_before_them() -> None:
    environment = {ALL + "HEADERS": "api-key=a%20b, x=1"}
    found = destination(Otlp(headers={"x": "2"}), "traces", environment)
    assert found.headers == {"api-key": "a b", "x": "2"}


def test_the_time_out_is_in_milliseconds_as_the_specification_says() -> None:
    assert destination(Otlp(), "traces", {ALL + "TIMEOUT": "2500"}).timeout == 2.5
    assert destination(Otlp(timeout=1), "traces", {ALL + "TIMEOUT": "2500"}).timeout == 1
    assert destination(Otlp(), "traces", {}).timeout == 5


def test_certificates_come_from_variables_too() -> None:
    environment = {
        ALL + "CERTIFICATE": "ca",
        ALL + "CLIENT_KEY": "k",
        ALL + "TRACES_CLIENT_CERTIFICATE": "c",
    }
    found = destination(Otlp(), "traces", environment)
    assert (found.ca_file, found.cert_file, found.key_file) == ("ca", "c", "k")


def test_resource_attributes_in_their_order() -> None:
    environment = {
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=a,team=x%2Cy,zone=1",
        "OTEL_SERVICE_NAME": "b",
    }
    found = resource({"zone": "2"}, environment, {"service.version": "1"})
    assert found == {"service.name": "b", "service.version": "1", "team": "x,y", "zone": "2"}
    assert resource({}, {}, {})["service.name"] == "twinspan"
    assert resource({"service.name": "c"}, environment, {})["service.name"] == "c"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_LOGS_EXPORTER": "otlp"}, False),
    ],
    ids=["nothing", "traces", "logs"],
)
def test_export_can_be_switched_on_by_variable(
    environment: Mapping[str, str], expected: bool
) -> None:
    assert is_on(Otlp(), "traces", environment) is expected
    assert not is_on(Otlp(enabled=True), "traces", {**environment, "OTEL_SDK_DISABLED": "true"})


@pytest.mark.parametrize(
    ("settings", "environment", "ratio", "follows"),
    [
        (Traces(), {}, 1.0, True),
        (Traces(ratio=0.2), {}, 0.2, True),
        (Traces(ratio=0.2), {"OTEL_TRACES_SAMPLER": "always_on"}, 1.0, False),
        (Traces(), {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0.0, True),
        (
            Traces(),
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
            0.5,
            True,
        ),
        (
            Traces(sampler="traceidratio", ratio=0.1),
            {"OTEL_TRACES_SAMPLER": "always_on"},
            0.1,
            False,
        ),
    ],
    ids=["default", "ratio", "variable", "off", "argument", "setting first"],
)
def test_the_sampler_is_found(
    settings: Traces, environment: Mapping[str, str], ratio: float, follows: bool
) -> None:
    found = sampling(settings, environment)
    assert (found.ratio, found.follows) == (ratio, follows)


def test_hono_s_rate_limiting_sampler_is_a_rate() -> None:
    environment = {"OTEL_TRACES_SAMPLER": "rate_limiting", "OTEL_TRACES_SAMPLER_ARG": "25"}
    assert sampling(Traces(), environment).per_second == 25


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_SAMPLER": "sometimes"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "many"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"},
    ],
    ids=["unknown", "no number", "no ratio"],
)
def test_a_wrong_sampler_is_refused(environment: Mapping[str, str]) -> None:
    with pytest.raises(InvalidSetting, match="OTEL_TRACES_SAMPLER"):
        sampling(Traces(), environment)
