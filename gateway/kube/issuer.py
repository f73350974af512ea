"""What lets others check tokens of ServiceAccounts by themselves: the issuer's description and its keys.

Source: OpenID Connect Discovery 1.0; Kubernetes "Service account issuer discovery".
"""

from __future__ import annotations

import msgspec

from gateway.kube.accounts import ISSUER, Accounts
from gateway.kube.documents import JSON, Document
from gateway.kube.signing import ALGORITHM

KEYS, DESCRIPTION = "/openid/v1/jwks", "/.well-known/openid-configuration"


def identity_documents(accounts: Accounts) -> dict[str, Document]:
    """Return the keys, by their path."""
    body = msgspec.json.encode(accounts.key_set())
    return {KEYS: Document(body, "application/jwk-set+json")}


def issuer_document(address: str) -> dict[str, Document]:
    """Return the description, by its path; `address` is where the keys are, as `host:port`."""
    body = {
        "issuer": ISSUER,
        "jwks_uri": f"https://{address}{KEYS}",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
    }
    return {DESCRIPTION: Document(msgspec.json.encode(body), JSON)}
