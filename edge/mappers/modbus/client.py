"""pymodbus, and nothing else here: one connection, one request at a time, its failures as ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from pymodbus import FramerType, ModbusException
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.pdu import ModbusPDU

from edge.mappers.driver import DeviceUnreachable
from edge.mappers.modbus.addresses import LineAddress, TcpLine
from edge.mappers.modbus.lines import Refused, Write
from edge.mappers.modbus.registers import Coils, Mask, Registers, Table

logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # what fails is told by whoever asked

CONNECT_SECONDS = 3.0
LONGEST_SECONDS = 10.0
READS = {
    Table.COIL: (1, "read_coils"),
    Table.DISCRETE: (2, "read_discrete_inputs"),
    Table.HOLDING: (3, "read_holding_registers"),
    Table.INPUT: (4, "read_input_registers"),
}


class PymodbusClient:
    """One line's connection."""

    def __init__(self, address: LineAddress) -> None:
        self._address = address
        self._client = _client(address)

    @property
    def is_open(self) -> bool:
        return bool(self._client.connected)

    async def open(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                is_open = await self._client.connect()
        except (ModbusException, OSError, TimeoutError) as error:
            self.close()
            raise DeviceUnreachable(f"{self._address}: {_cause(error)}") from error
        if not is_open:
            self.close()
            raise DeviceUnreachable(f"{self._address}: cannot be opened")

    async def read(self, unit: int, table: Table, offset: int, count: int) -> list[int]:
        code, name = READS[table]
        call = partial(getattr(self._client, name), offset, count=count, device_id=unit)
        answer = await self._answer(call, code)
        found: Sequence[int] = answer.bits[:count] if table.is_bits else answer.registers
        if len(found) != count:
            raise DeviceUnreachable(f"{len(found)} of {count} {table}s came")
        return [int(each) for each in found]

    async def write(self, unit: int, what: Write) -> None:
        client = self._client
        match what:
            case Coils(offset, (value,)):
                await self._answer(partial(client.write_coil, offset, value, device_id=unit), 5)
            case Coils(offset, values):
                await self._answer(
                    partial(client.write_coils, offset, list(values), device_id=unit), 15
                )
            case Registers(offset, (word,), is_many=False):
                await self._answer(partial(client.write_register, offset, word, device_id=unit), 6)
            case Registers(offset, words):
                await self._answer(
                    partial(client.write_registers, offset, list(words), device_id=unit), 16
                )
            case Mask(offset, keeps, sets):
                call = partial(
                    client.mask_write_register,
                    address=offset,
                    and_mask=keeps,
                    or_mask=sets,
                    device_id=unit,
                )
                await self._answer(call, 22)

    async def identity(self, unit: int) -> dict[str, str]:
        """Return what a device says of itself: vendor, product, revision."""
        answer = await self._answer(
            partial(self._client.read_device_information, device_id=unit), 43
        )
        names = {0: "vendor", 1: "product", 2: "revision"}
        found = getattr(answer, "information", {})
        return {
            name: found[key].decode("utf-8", "replace")[:100]
            for key, name in names.items()
            if isinstance(found.get(key), bytes)
        }

    def close(self) -> None:
        self._client.close()

    async def _answer(self, call: Callable[[], Awaitable[ModbusPDU]], code: int) -> ModbusPDU:
        try:
            answer = await call()  # it fails before it is awaited where the connection has gone
        except (ModbusException, OSError) as error:
            raise DeviceUnreachable(_cause(error)) from error
        if answer.isError():
            raise Refused(int(getattr(answer, "exception_code", 0)))
        if answer.function_code != code:
            raise DeviceUnreachable(f"function {answer.function_code} was answered to {code}")
        return answer


def _client(address: LineAddress) -> AsyncModbusTcpClient | AsyncModbusSerialClient:
    if isinstance(address, TcpLine):
        return AsyncModbusTcpClient(
            address.host,
            port=address.port,
            framer=FramerType.RTU if address.is_rtu else FramerType.SOCKET,
            timeout=LONGEST_SECONDS,
            retries=0,
            reconnect_delay=0,
        )
    return AsyncModbusSerialClient(
        address.path,
        framer=FramerType.RTU,
        baudrate=address.baud,
        bytesize=address.data_bits,
        parity=address.parity,
        stopbits=address.stop_bits,
        timeout=LONGEST_SECONDS,
        retries=0,
        reconnect_delay=0,
    )


def _cause(error: Exception) -> str:
    return (str(error) or type(error).__name__).removeprefix("Modbus Error: ")[:200]
