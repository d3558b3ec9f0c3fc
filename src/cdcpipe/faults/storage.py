"""Faults of an S3 server's answers: errors, silence, and answers that are lost although the work was done.

They need a proxied link, which leads through a gate of ours (`gate.py`) as long as the fault lasts. By default they hit
what changes the archive (PUT, POST, DELETE); `path` is searched in path and query, so that one step of an upload can
be chosen: `uploadId=` for the completion of a multipart upload, `metadata` for table metadata.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx2
import psutil

from cdcpipe.errors import FaultError, UsageError
from cdcpipe.faults import gate as gate_module
from cdcpipe.faults.fault import Fault, Trace, register
from cdcpipe.faults.gate import CONTROL, Action, Rule
from cdcpipe.faults.link import check_link, unlinked
from cdcpipe.stack.stack import Stack

__all__ = ["S3Error", "S3LostAnswer", "S3SlowDown", "S3Timeout", "StorageFault"]


@dataclass(frozen=True, slots=True)
class StorageFault(Fault):
    """Base of the faults that a gate makes. Each `every`-th request that matches is hit, `times` in all (0: no end)."""

    action: ClassVar[Action]
    needs: ClassVar[str] = "links with proxies: `cdcpipe up --proxied`"
    effect_seconds_max: ClassVar[float] = 60.0  # a request must come

    link: str = "connect-s3"
    methods: tuple[str, ...] = ("PUT", "POST", "DELETE")
    path: str = ""
    every: int = 1
    times: int = 0

    @property
    def target(self) -> str:
        return self.link

    def check(self) -> None:
        try:
            re.compile(self.path)
        except re.error as error:
            raise UsageError(f"`{self.kind}`: path `{self.path}` is no regular expression: {error}") from error

    def supports(self, stack: Stack) -> str | None:
        reason = unlinked(stack)
        if reason is None and not check_link(stack, self.link).reroutable:
            return f"`{self.link}` can't be led through a gate on this machine"
        return reason

    def resolve(self, stack: Stack) -> Trace:
        if stack.links[self.link].rerouted():
            raise FaultError(f"`{self.link}` is led through the gate of another fault already")
        return {}

    def set_up(self, stack: Stack, trace: Trace) -> None:
        link = stack.links[self.link]
        gate = subprocess.Popen(
            [sys.executable, "-P", gate_module.__file__, link.upstream()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert gate.stdout is not None
        with gate.stdout:
            port = gate.stdout.readline().strip()
        _GATES[gate.pid] = gate
        if not port:
            raise FaultError(f"the gate before `{self.link}` did not start (exit code {gate.wait(10)})")
        trace |= {"gate": f"127.0.0.1:{port}", "pid": gate.pid, "started": psutil.Process(gate.pid).create_time()}
        link.reroute(trace["gate"])

    def inject(self, stack: Stack, trace: Trace) -> None:
        rule = Rule(self.action, self.methods, self.path, self.every, self.times)
        _control(trace, "PUT", rule.to_json())

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return None if _control(trace, "GET")["hits"] else "no request has come that it could hit"

    def recover(self, stack: Stack, trace: Trace) -> None:
        """Let everything pass; past the gate, if that is gone with the process that started it."""
        try:
            if "gate" not in trace:
                raise FaultError("it was never started, or nobody knows where")
            _control(trace, "PUT", "null")
        except FaultError:
            stack.links[self.link].reroute(None)

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        return None if stack.links[self.link].passes() else f"`{self.link}` reaches no server"

    def clean_up(self, stack: Stack, trace: Trace) -> None:
        if self.link in stack.links:
            with contextlib.suppress(FaultError):  # a toxiproxy that is down forgets the way through the gate
                stack.links[self.link].reroute(None)
        if "pid" in trace:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(trace["pid"])
                if abs(process.create_time() - trace["started"]) < 0.1:
                    process.kill()
            gate = _GATES.pop(trace["pid"], None)
            if gate is not None:
                gate.wait(10)


_GATES: dict[int, subprocess.Popen[str]] = {}  # ours, to be reaped


def _control(trace: Trace, method: str, content: str | None = None) -> dict[str, Any]:
    try:
        answer = httpx2.request(
            method, f"http://{trace['gate']}{CONTROL}", content=content, timeout=10, trust_env=False
        ).json()
    except (httpx2.HTTPError, ValueError) as error:
        raise FaultError(f"the gate at {trace['gate']} doesn't answer: {type(error).__name__}") from error
    assert isinstance(answer, dict)
    return answer


@register
@dataclass(frozen=True, slots=True)
class S3Error(StorageFault):
    """The server answers 500 InternalError, and has done nothing."""

    kind: ClassVar[str] = "s3-error"
    provokes: ClassVar[tuple[str, ...]] = ("C6", "I4", "A1")
    action: ClassVar[Action] = "error"


@register
@dataclass(frozen=True, slots=True)
class S3SlowDown(StorageFault):
    """The server answers 503 SlowDown, as S3 does to a prefix that is asked too often."""

    kind: ClassVar[str] = "s3-slow-down"
    provokes: ClassVar[tuple[str, ...]] = ("C6", "C11", "A1")
    action: ClassVar[Action] = "slow-down"


@register
@dataclass(frozen=True, slots=True)
class S3Timeout(StorageFault):
    """The server takes the request and never answers; nothing was done."""

    kind: ClassVar[str] = "s3-timeout"
    provokes: ClassVar[tuple[str, ...]] = ("C2", "C6", "I3")
    action: ClassVar[Action] = "hang"


@register
@dataclass(frozen=True, slots=True)
class S3LostAnswer(StorageFault):
    """The server does what it is asked, and its answer is lost: the client believes undone what is done."""

    kind: ClassVar[str] = "s3-lost-answer"
    provokes: ClassVar[tuple[str, ...]] = ("C3", "C6", "I2", "A1")
    action: ClassVar[Action] = "lose"
