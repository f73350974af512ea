"""Who may approve and sign certificate requests, and what a request says of its maker.

Source: Kubernetes' admission plugins CertificateApproval, -Signing and -SubjectRestriction.
"""

from __future__ import annotations

from gateway.kube.auth import MASTERS, Access, User
from gateway.kube.authorizer import Authorizer
from gateway.kube.hooks import Write
from gateway.kube.strategies import table
from gateway.model.json import JsonObject
from gateway.wire.kube.names import quoted
from gateway.wire.kube.requestfiles import CLIENT, read_request
from gateway.wire.kube.status import forbidden

GROUP = "certificates.k8s.io"
KIND = f"certificatesigningrequests.{GROUP}"


def stamp(item: JsonObject, user: User) -> JsonObject:
    """Say in a new request who made it."""
    spec = {
        key: value
        for key, value in table(item, "spec").items()
        if key not in ("username", "uid", "groups", "extra")
    }
    spec["username"] = user.name
    if user.uid:
        spec["uid"] = user.uid
    if user.groups:
        spec["groups"] = [*user.groups]
    if user.extra:
        spec["extra"] = {key: [*values] for key, values in user.extra}
    return {**item, "spec": spec}


class RequestGuard:
    """Judges approvals and signatures by verbs on `signers`, and refuses requests to be an administrator."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    def __call__(self, write: Write) -> None:
        """Errors: Forbidden."""
        why = self._refusal(write)
        if why:
            raise forbidden("certificatesigningrequests", GROUP, write.name, why)

    def _refusal(self, write: Write) -> str:
        signer = str(table(write.item, "spec").get("signerName") or "")
        if write.old is None:
            return _subject_refusal(signer, write.item)
        if write.user is None:
            return ""
        status, before = table(write.item, "status"), table(write.old, "status")
        if write.part == "approval" and not self._may(write.user, "approve", signer):
            return f"user not permitted to approve requests with signerName {quoted(signer)}"
        is_signed = status.get("certificate") != before.get("certificate")
        is_failed = status.get("conditions") != before.get("conditions")
        is_answer = write.part == "status" and (is_signed or is_failed)
        if is_answer and not self._may(write.user, "sign", signer):
            return f"user not permitted to sign requests with signerName {quoted(signer)}"
        return ""

    def _may(self, user: User, verb: str, signer: str) -> bool:
        """True with the verb on the signer, or on all of its domain."""
        return any(
            self._authorizer.decide(
                user, Access(verb=verb, group=GROUP, resource="signers", name=name)
            ).allowed
            for name in (signer, signer.partition("/")[0] + "/*")
        )


def _subject_refusal(signer: str, item: JsonObject) -> str:
    if signer != CLIENT:
        return ""
    try:
        request = read_request(table(item, "spec").get("request"))
    except ValueError as error:
        return f"could not parse CSR: {error}"
    if MASTERS in request.organizations:
        return f"use of {signer} signer with {MASTERS} group is not allowed"
    return ""
