"""Secrets of type `kubernetes.io/service-account-token`: filled with a token, removed with their account.

Source: kube-controller-manager's serviceaccount-token.
"""

from __future__ import annotations

import base64

from gateway.errors import Conflict, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import metadata_of, uid_of
from gateway.kube.informer import Change, Key
from gateway.model.json import Json, JsonObject

TYPE = "kubernetes.io/service-account-token"
NAME = "kubernetes.io/service-account.name"
UID = "kubernetes.io/service-account.uid"


class TokenSecrets:
    """Looks at such a Secret when it or its account changes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kube = context.kube
        self._secrets = context.mirrors.of("v1", "secrets")
        self._accounts = context.mirrors.of("v1", "serviceaccounts")
        self._of = self._secrets.index("account", _account_mark)
        self._loop: Loop[Key] = Loop(self._look)
        self._secrets.on_change(self._secret_changed)
        self._accounts.on_change(self._account_changed)

    async def run(self) -> None:
        await self._loop.run()

    def _secret_changed(self, change: Change) -> None:
        if change.new is not None and change.new.get("type") == TYPE:
            self._loop.poke(change.key)

    def _account_changed(self, change: Change) -> None:
        for secret in self._of.get("/".join(change.key)):
            meta = metadata_of(secret)
            self._loop.poke((str(meta.get("namespace")), str(meta.get("name"))))

    async def _look(self, key: Key) -> None:
        secret, keys = self._secrets.get(*key), self._context.keys()
        if secret is None or keys is None or secret.get("type") != TYPE:
            return
        notes = _table(metadata_of(secret).get("annotations"))
        account = self._accounts.get(key[0], str(notes.get(NAME) or ""))
        if account is None or notes.get(UID) not in (None, "", uid_of(account)):
            await self._remove(key, secret)
            return
        data = _table(secret.get("data"))
        wanted = {
            "ca.crt": _text(keys.authority.certificate),
            "namespace": _text(key[0].encode()),
        }
        if not data.get("token"):
            wanted["token"] = _text(keys.account_token(account, secret).encode())
        missing: JsonObject = {
            name: value for name, value in wanted.items() if data.get(name) != value
        }
        if not missing and notes.get(UID) == uid_of(account):
            return
        meta: JsonObject = {
            "annotations": {UID: uid_of(account)},
            "resourceVersion": metadata_of(secret).get("resourceVersion"),
        }
        patch: JsonObject = {"metadata": meta, "data": missing}
        try:
            self._secrets.put(await self._kube.patch("v1", "secrets", key[0], key[1], patch))
        except (Conflict, NotFound):
            return  # the change comes, and with it another look

    async def _remove(self, key: Key, secret: JsonObject) -> None:
        """The account is gone, or is another one: its Secret goes, after a look past our mirror."""
        name = str(_table(metadata_of(secret).get("annotations")).get(NAME) or "")
        uid = _table(metadata_of(secret).get("annotations")).get(UID)
        try:
            account = await self._kube.get("v1", "serviceaccounts", key[0], name)
            if uid in (None, "", uid_of(account)):
                return
        except NotFound:
            pass
        try:
            await self._kube.delete("v1", "secrets", key[0], key[1], uid=uid_of(secret))
        except (Conflict, NotFound):
            return


def _account_mark(secret: JsonObject) -> tuple[str, ...]:
    if secret.get("type") != TYPE:
        return ()
    meta = metadata_of(secret)
    return (f"{meta.get('namespace')}/{_table(meta.get('annotations')).get(NAME)}",)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}
