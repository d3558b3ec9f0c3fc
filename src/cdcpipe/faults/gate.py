"""A gate before an S3 server that can answer in its place: a fault tool, never a part of the pipeline.

    python -P gate.py UPSTREAM_HOST:PORT        prints the port that it listens on

It forwards HTTP/1.1 as it comes. While a rule is set, each request that the rule matches is answered with an error,
left without an answer, or done by the server and its answer thrown away. The rule is set and its hits are read at
`/.cdcpipe-gate`. It ends when the process that started it has ended, so that none is ever left over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from typing import Literal

import h11

__all__ = ["CONTROL", "Action", "Rule"]

CONTROL = "/.cdcpipe-gate"
Action = Literal["error", "slow-down", "hang", "lose"]

_CHUNK = 64 * 1024
_ERRORS = {"error": (500, "InternalError"), "slow-down": (503, "SlowDown")}


@dataclass(frozen=True, slots=True)
class Rule:
    """Which requests are hit: method, a regular expression found in path and query, each `every`-th, `times` in all.

    No methods: all. `times` 0: without end.
    """

    action: Action
    methods: tuple[str, ...] = ()
    path: str = ""
    every: int = 1
    times: int = 0

    def to_json(self) -> str:
        """As the gate takes it."""
        return json.dumps(asdict(self))


class _Gate:
    """What all connections share: the rule, and how often it matched and hit."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.rule: Rule | None = None
        self.changed = asyncio.Event()
        self.matched = self.hits = self.passed = 0

    def control(self, method: str, body: bytes) -> bytes:
        if method == "PUT":
            content = json.loads(body)
            self.rule = None if content is None else Rule(**{**content, "methods": tuple(content["methods"])})
            self.matched = self.hits = self.passed = 0
            self.changed.set()  # what hangs is let go
            self.changed = asyncio.Event()
        return json.dumps({"matched": self.matched, "hits": self.hits, "passed": self.passed}).encode()

    def action(self, method: str, target: str) -> Action | None:
        rule = self.rule
        if rule is None or (rule.methods and method not in rule.methods) or not re.search(rule.path, target):
            return None
        self.matched += 1
        if self.matched % max(1, rule.every) or (rule.times and self.hits >= rule.times):
            return None
        self.hits += 1
        return rule.action


class _Peer:
    """One end of an HTTP/1.1 connection."""

    def __init__(
        self,
        role: type[h11.CLIENT] | type[h11.SERVER],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.http = h11.Connection(role)
        self.reader = reader
        self.writer = writer

    async def next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(await self.reader.read(_CHUNK))

    async def send(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def body(self) -> bytes:
        """All that is left of the message."""
        content = b""
        while isinstance(event := await self.next(), h11.Data):
            content += bytes(event.data)
        return content


class _Connection:
    """A client's connection, and the one to the server that is opened for it."""

    def __init__(self, gate: _Gate, client: _Peer) -> None:
        self._gate = gate
        self._client = client
        self._server: _Peer | None = None

    async def serve(self) -> None:
        while isinstance(request := await self._client.next(), h11.Request):
            method, target = request.method.decode(), request.target.decode()
            if target == CONTROL:
                answer = self._gate.control(method, await self._client.body())
                await self._answer(200, answer, "application/json")
            elif not await self._one(request, self._gate.action(method, target)):
                return
            if self._client.http.our_state is not h11.DONE or self._client.http.their_state is not h11.DONE:
                return
            self._client.http.start_next_cycle()

    async def _one(self, request: h11.Request, action: Action | None) -> bool:
        """Whether the connection goes on."""
        if action == "hang":
            await self._client.body()
            await self._gate.changed.wait()
            return False
        if action in _ERRORS:
            await self._client.body()
            status, code = _ERRORS[action]
            text = (
                f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>by cdcpipe</Message></Error>'
            )
            await self._answer(status, text.encode(), "application/xml")
            return True
        return await self._forward(request, answered=action != "lose")

    async def _answer(self, status: int, body: bytes, content_type: str) -> None:
        headers = [("content-type", content_type), ("content-length", str(len(body)))]
        await self._client.send(h11.Response(status_code=status, headers=headers))
        with contextlib.suppress(h11.LocalProtocolError):  # an answer to HEAD has no body
            await self._client.send(h11.Data(data=body))
        await self._client.send(h11.EndOfMessage())

    async def _forward(self, request: h11.Request, *, answered: bool) -> bool:
        server = await self._connected()
        headers = [(name, value) for name, value in request.headers if name != b"expect"]
        await server.send(h11.Request(method=request.method, target=request.target, headers=headers))
        while isinstance(event := await self._client.next(), h11.Data):
            await server.send(h11.Data(data=event.data))
        await server.send(h11.EndOfMessage())
        while True:
            answer = await server.next()
            if isinstance(answer, h11.Response | h11.Data | h11.EndOfMessage):
                if answered:
                    await self._client.send(answer)
                if isinstance(answer, h11.EndOfMessage):
                    break
            elif not isinstance(answer, h11.InformationalResponse):
                return False  # the server hung up
        if server.http.our_state is h11.DONE and server.http.their_state is h11.DONE:
            server.http.start_next_cycle()
        else:
            await self.close()
        self._gate.passed += 1
        return answered

    async def _connected(self) -> _Peer:
        if self._server is None:
            self._server = _Peer(h11.CLIENT, *await asyncio.open_connection(*self._gate.upstream))
        return self._server

    async def close(self) -> None:
        if self._server is not None:
            self._server.writer.close()
            self._server = None


async def _serve(upstream: tuple[str, int]) -> None:
    gate = _Gate(upstream)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(gate, _Peer(h11.SERVER, reader, writer))
        # Whatever goes wrong between two others ends their connection; that is all a proxy can say.
        with contextlib.suppress(OSError, h11.ProtocolError, asyncio.IncompleteReadError):
            await connection.serve()
        writer.transport.abort()
        await connection.close()

    parent = os.getppid()
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the port is what it gives
    while os.getppid() == parent:
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    asyncio.run(_serve((host, int(port))))
