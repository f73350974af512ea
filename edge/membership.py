"""Which devices belong to this node: the cloud says so, and is asked until it answers.

Source: KubeEdge reference, section 15.5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from edge.attributes import Attributes
from edge.clock import now_ms, stamp
from edge.deviceforms import member_of, node_topic, row_of
from edge.hub import Sender
from edge.store import DeviceRow
from gateway.errors import GatewayError
from gateway.wire.cloudedge.envelope import Envelope, struct_of
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.to_cloud import MEMBERSHIP_DETAIL, ask_membership
from gateway.wire.cloudedge.to_edge import Answer, AttributesChanged, MembershipChanged
from gateway.wire.cloudedge.twins import MEMBERSHIP_LIST, MembershipUpdate, write

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 60.0
"""How often the cloud is asked for the list of devices until it answers."""


class Members(Protocol):
    """The devices of this node, as membership changes them (DeviceTwin)."""

    @property
    def rows(self) -> list[DeviceRow]: ...
    @property
    def attributes(self) -> Attributes: ...
    def add_member(self, row: DeviceRow) -> None: ...
    def delete_device(self, key: DeviceKey) -> None: ...


class Membership:
    """A listener of the link, a taker of answers, and the handler of `MembershipChanged`."""

    def __init__(
        self, node: str, sender: Sender, members: Members, publish: Callable[[str, bytes], None]
    ) -> None:
        self._node = node
        self._sender = sender
        self._members = members
        self._publish = publish
        self._is_up = False
        self._asked = ""

    async def ask_forever(self) -> None:
        """Ask again what the cloud has not answered."""
        while True:
            if self._is_up and self._asked:
                self._ask()
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  every cloud has twins
        self._is_up = True
        self._ask()

    def link_down(self) -> None:
        self._is_up = False

    def _ask(self) -> None:
        question = ask_membership(stamp(), self._node)
        self._asked = question.msg_id
        try:
            self._sender.send(question)
        except GatewayError as error:
            log.debug("membership cannot be asked now", extra={"cause": error.message})

    def on_membership(self, _envelope: Envelope, message: MembershipChanged) -> None:
        """Devices came or went."""
        self._change(message.update)

    def on_attributes(self, _envelope: Envelope, message: AttributesChanged) -> None:
        """An older cloud says something of a device."""
        device, update = str(message.device), message.update
        if device in {row.id for row in self._members.rows}:
            self._members.attributes.take(device, update.attributes, update.event_id)

    def take_answer(self, answer: Answer) -> bool:
        """Take the cloud's list of devices: ours that are not in it go."""
        if not self._asked or answer.parent_id != self._asked:
            return False
        self._asked = ""
        if answer.resource != MEMBERSHIP_DETAIL:
            return True
        try:
            members = struct_of(answer.content, MEMBERSHIP_LIST).devices or []
        except GatewayError as error:
            log.warning("the list of devices cannot be read", extra={"cause": error.message})
            return True
        listed = {member.id for member in members}
        gone = [member_of(row) for row in self._members.rows if row.id not in listed]
        self._change(
            MembershipUpdate(added_devices=list(members), removed_devices=gone), tell=bool(gone)
        )
        return True

    def _change(self, update: MembershipUpdate, *, tell: bool = True) -> None:
        known = {row.id for row in self._members.rows}
        added = [m for m in update.added_devices or [] if m.id not in known]
        for member in added:
            self._members.add_member(row_of(member))
        known = {row.id for row in self._members.rows}
        for member in update.added_devices or []:
            if member.attributes and member.id in known:
                self._members.attributes.take(member.id, member.attributes, update.event_id)
        for member in update.removed_devices or []:
            self._remove(member.id)
        if tell or added:
            told = msgspec.structs.replace(update, timestamp=now_ms())
            self._publish(f"{node_topic(self._node)}/membership/updated", write(told))

    def _remove(self, device: str) -> None:
        try:
            self._members.delete_device(DeviceKey.parse(device))
        except GatewayError as error:
            log.warning("a device without namespace", extra={"cause": error.message})
