"""How the API server shows itself to kubelets: a client certificate of its own authority."""

from __future__ import annotations

import ssl

from gateway.kube.certs import Identity
from gateway.runtime.certificates import is_usable, issue, kept, save

NAME, USER, GROUP = "apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"


def kubelet_tls(identity: Identity) -> ssl.SSLContext:
    """Return TLS for connections to kubelets; the certificate is made at first use and when worn out."""
    pair = kept(identity.folder, NAME)
    if pair is None or not is_usable(pair, ()):
        save(identity.folder, NAME, issue(identity.authority, USER, groups=(GROUP,)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(identity.folder / f"{NAME}.crt", identity.folder / f"{NAME}.key")
    context.set_alpn_protocols(["http/1.1"])
    return context
