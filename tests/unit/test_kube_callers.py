"""Who calls: token files, impersonation headers, field selectors in what a request wants."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import BadRequest, InvalidSetting, Unauthenticated
from gateway.kube.auth import Authenticator, User, access_to
from gateway.kube.impersonation import acting_as, wanted_of
from gateway.kube.tokenfile import read_tokens


def test_a_token_file_names_users_and_groups(tmp_path: Path) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text('# ours\nt1,ann,u1,"dev,ops"\n\nt2,bob,u2\n')
    assert read_tokens(str(file)) == {
        "t1": User("ann", ("dev", "ops"), "u1"),
        "t2": User("bob", (), "u2"),
    }


@pytest.mark.parametrize("line", ["t1,ann", ",ann,u1", "t1,,u1"])
def test_a_short_line_of_a_token_file_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text(f"t0,x,u0\n{line}\n")
    with pytest.raises(InvalidSetting, match=r"tokens\.csv:2: expected token,user,uid"):
        read_tokens(str(file))


def test_a_missing_token_file_is_named() -> None:
    with pytest.raises(InvalidSetting, match=r"kube\.token_file: cannot read"):
        read_tokens("/nowhere/tokens.csv")


def test_callers_without_anything_are_anonymous_or_refused() -> None:
    assert Authenticator({}).user(None, None).name == "system:anonymous"
    with pytest.raises(Unauthenticated):
        Authenticator({}, anonymous=False).user(None, None)


def test_a_certificate_that_ended_is_refused() -> None:
    subject = ((("organizationName", "dev"),), (("commonName", "ann"),))
    certificate = {"subject": subject, "notAfter": "Jan  1 00:00:00 2020 GMT"}
    before = Authenticator({}, now=lambda: 1_500_000_000.0)
    assert before.user(certificate, None).groups == ("dev", "system:authenticated")
    with pytest.raises(Unauthenticated):
        Authenticator({}, now=lambda: 1_600_000_000.0).user(certificate, None)


def test_headers_say_whom_somebody_wants_to_be() -> None:
    wanted = wanted_of(
        [
            ("Accept", "x"),
            ("impersonate-user", "ann"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-Acme.io%2Fteam", "blue"),
        ]
    )
    assert wanted is not None
    assert (wanted.name, wanted.groups, wanted.uid) == ("ann", ("dev", "ops"), "7")
    assert wanted.extra == (("acme.io/team", ("blue",)),)
    assert wanted_of([("Accept", "x")]) is None


@pytest.mark.parametrize("header", ["Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-a"])
def test_nobody_is_a_group_alone(header: str) -> None:
    with pytest.raises(BadRequest):
        wanted_of([(header, "x")])


def test_too_many_groups_are_refused() -> None:
    many = [("Impersonate-User", "a"), *[("Impersonate-Group", str(n)) for n in range(300)]]
    with pytest.raises(BadRequest, match="256"):
        wanted_of(many)


def test_users_have_the_groups_that_their_kind_has() -> None:
    assert acting_as("ann").groups == ("system:authenticated",)
    assert acting_as("system:anonymous").groups == ("system:unauthenticated",)
    bot = acting_as("system:serviceaccount:x:bot")
    assert bot.groups == (
        "system:serviceaccounts",
        "system:serviceaccounts:x",
        "system:authenticated",
    )
    assert acting_as("system:serviceaccount:x:bot", ("dev",)).groups == (
        "dev",
        "system:authenticated",
    )


def test_a_list_of_one_name_is_judged_by_that_name() -> None:
    access = access_to("list", "", "secrets", namespace="x", fields="metadata.name=one,type!=y")
    assert (access.name, access.fields) == ("one", (("metadata.name", "one"),))
    assert access_to("get", "", "namespaces", name="x").namespace == "x"
    assert access_to("list", "", "namespaces").namespace == ""


@pytest.mark.parametrize(
    "fields", [r"type!=y\,metadata.name=one", r"metadata.name!=x\,spec.nodeName=n1", "metadata"]
)
def test_what_a_list_will_not_be_limited_by_gives_no_right(fields: str) -> None:
    access = access_to("list", "", "secrets", namespace="x", fields=fields)
    assert (access.name, access.fields) == ("", ())
