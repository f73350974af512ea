"""A mapper on grpcio and protobuf's own code, made from `tests/clients/dmi/dmi.proto`."""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory

PROTO = Path(__file__).parent / "clients" / "dmi" / "dmi.proto"
SECONDS = 20.0


@functools.cache
def _module() -> Any:
    """Compile the definition, as a mapper's build does."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        include = Path(protoc.__file__).parent / "_proto"
        code = protoc.main(
            ["protoc", f"-I{PROTO.parent}", f"-I{include}", f"--python_out={folder}", str(PROTO)]
        )
        assert code == 0
        spec = importlib.util.spec_from_file_location("dmi_pb2", Path(folder) / "dmi_pb2.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["dmi_pb2"] = module
        spec.loader.exec_module(module)
        return module


def message(name: str) -> Any:
    """Return the class of a message."""
    return getattr(_module(), name)


def every_message() -> list[str]:
    """Return the names of all messages."""
    return list(_module().DESCRIPTOR.message_types_by_name)


class Mapper:
    """Calls EdgeCore, and serves EdgeCore's calls: `told` has them in order, as (method, request)."""

    def __init__(self, edge: Path, socket: Path, protocol: str = "profinet") -> None:
        self.edge = edge
        self.socket = socket
        self.protocol = protocol
        self.told: list[tuple[str, Any]] = []
        self.traces: list[str] = []
        self.refuses: dict[str, grpc.StatusCode] = {}
        self._server: grpc.aio.Server | None = None

    async def call(self, method: str, request: Any) -> Any:
        """Call EdgeCore. Errors: grpc.aio.AioRpcError."""
        response = message(f"{method}Response")
        async with grpc.aio.insecure_channel(f"unix:{self.edge}") as channel:
            call: Any = channel.unary_unary(
                f"/v1beta1.DeviceManagerService/{method}",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=response.FromString,
            )
            return await call(request, timeout=SECONDS)

    async def register(self, *, with_data: bool = True, address: str = "") -> Any:
        """Register; returns what there is to serve."""
        info = message("MapperInfo")(
            name=f"{self.protocol}-mapper",
            version="v1.13.0",
            api_version="v1.0.0",
            protocol=self.protocol,
            address=(address or str(self.socket)).encode(),
        )
        request = message("MapperRegisterRequest")(withData=with_data, mapper=info)
        return await self.call("MapperRegister", request)

    async def report(self, device: str, **values: tuple[str | None, str | None]) -> Any:
        """Report twins: name -> (observed desired value, reported value)."""
        twins = []
        for name, (desired, reported) in values.items():
            twin = message("Twin")(propertyName=name)
            if desired is not None:
                twin.observedDesired.value = desired
            if reported is not None:
                twin.reported.value = reported
                twin.reported.metadata["timestamp"] = "1795377600000"
            twins.append(twin)
        status = message("DeviceStatus")(twins=twins)
        request = message("ReportDeviceStatusRequest")(
            deviceName=device, deviceNamespace="default", reportedDevice=status
        )
        return await self.call("ReportDeviceStatus", request)

    async def state(self, device: str, state: str) -> Any:
        request = message("ReportDeviceStatesRequest")(
            deviceName=device, deviceNamespace="default", state=state
        )
        return await self.call("ReportDeviceStates", request)

    def heard(self, method: str) -> list[Any]:
        """Return the requests of one method, oldest first."""
        return [request for name, request in self.told if name == method]

    async def start(self) -> None:
        self.socket.parent.mkdir(exist_ok=True)
        server = grpc.aio.server()
        methods = _module().DESCRIPTOR.services_by_name["DeviceMapperService"].methods
        handlers = {
            each.name: grpc.unary_unary_rpc_method_handler(
                self._handler(each.name),
                request_deserializer=message_factory.GetMessageClass(each.input_type).FromString,
                response_serializer=lambda m: m.SerializeToString(),
            )
            for each in methods
        }
        service: Any = grpc.method_handlers_generic_handler("v1beta1.DeviceMapperService", handlers)
        server.add_generic_rpc_handlers((service,))
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _handler(self, method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            self.told.append((method, request))
            self.traces.append(dict(context.invocation_metadata()).get("traceparent", ""))
            if method in self.refuses:
                await context.abort(self.refuses[method], "not me")
            return message(f"{method}Response")()

        return answer


@asynccontextmanager
async def a_mapper(edge: Path, socket: Path, protocol: str = "profinet") -> AsyncIterator[Mapper]:
    """Run a mapper's server for the length of the block."""
    mapper = Mapper(edge, socket, protocol)
    await mapper.start()
    try:
        yield mapper
    finally:
        await mapper.stop()
