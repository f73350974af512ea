"""Who somebody is and what he may: roles, certificates, and the questions about both."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.kube.kinds.rows import paths, review, row
from gateway.wire.kube.resources import ResourceType, Subresource

AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io/v1", "authorization.k8s.io/v1"
RBAC = "rbac.authorization.k8s.io/v1"


def kinds() -> Iterator[ResourceType]:
    """Rows in the order of discovery."""
    yield review(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview")
    yield review(AUTHENTICATION, "tokenreviews", "TokenReview")
    yield review(
        AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", namespaced=True
    )
    yield review(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview")
    yield review(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview")
    yield review(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview")
    yield row(
        "certificates.k8s.io/v1",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        namespaced=False,
        short=("csr",),
        status=True,
        more=(Subresource("approval", "CertificateSigningRequest"),),
        fields=paths("spec.signerName"),
    )
    yield row(RBAC, "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
    yield row(RBAC, "clusterroles", "ClusterRole", namespaced=False)
    yield row(RBAC, "rolebindings", "RoleBinding")
    yield row(RBAC, "roles", "Role")  # fmt: skip
