"""Every error that `cdcpipe` raises on purpose, in one tree.

    CdcpipeError
    ├── UsageError                the caller gave something that can't be right
    │   ├── SettingsError         cdcpipe.toml, [tool.cdcpipe], CDCPIPE_*
    │   └── ConfigError           a connector, worker, topic or schema definition
    ├── MachineError              this machine lacks something
    │   ├── MissingExtra          an optional part of the package isn't installed
    │   ├── ArtefactError         a jar or archive can't be had, or isn't what the lock says
    │   ├── PortTaken
    │   └── DiskFull
    ├── StackError                a pipeline can't be brought up, down, or asked
    │   ├── StackBusy             another cdcpipe holds this stack
    │   ├── StackNotRunning
    │   ├── ComponentFailed       a component died or never became ready
    │   └── FaultError            a fault took no effect, or did not heal
    │       └── FaultNotSupported this kind of stack or machine can't do it
    ├── ServiceError              a server answered with an error, or not at all
    │   ├── PostgresError · KafkaError · ConnectError · RegistryError · StorageError
    │   └── ConnectUnavailable    (a ConnectError) no answer, or still rebalancing
    └── EvidenceError             what was to be judged can't be read whole

An anomaly in the data is a result, never an exception (see `cdcpipe.verify`). The mix-in `Transient`
marks errors for which trying again can help. Errors of lower libraries are translated once, in the
module that calls them.
"""

from __future__ import annotations

__all__ = [
    "ArtefactError",
    "CdcpipeError",
    "ComponentFailed",
    "ConfigError",
    "ConnectError",
    "ConnectUnavailable",
    "DiskFull",
    "EvidenceError",
    "FaultError",
    "FaultNotSupported",
    "KafkaError",
    "MachineError",
    "MissingExtra",
    "PortTaken",
    "PostgresError",
    "RegistryError",
    "ServiceError",
    "SettingsError",
    "StackBusy",
    "StackError",
    "StackNotRunning",
    "StorageError",
    "Transient",
    "UsageError",
]


class CdcpipeError(Exception):
    """The root. `str(e)` says what is wrong and where; `e.hint` what to do next.

    `detail` holds further lines (the end of a log, a list of findings) that are shown below the message.
    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail


class Transient:
    """Mix-in: the same call may go through later."""


class UsageError(CdcpipeError):
    """The caller gave something that can't be right. Correct it and call again."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting in `cdcpipe.toml`, `[tool.cdcpipe]` or the environment is unknown or has a bad value."""


class ConfigError(UsageError):
    """A connector, worker, topic or schema definition is wrong; `detail` lists every finding."""


class MachineError(CdcpipeError):
    """This machine lacks something. `cdcpipe doctor` lists all that is missing."""

    exit_code = 2


class MissingExtra(MachineError):
    """An optional part of the package is not installed."""

    def __init__(self, extra: str, what_for: str) -> None:
        super().__init__(
            f"{what_for} needs the extra `{extra}`, which is not installed",
            hint=f"pip install 'cdcpipe[{extra}]'",
        )
        self.extra = extra


class ArtefactError(MachineError):
    """A jar or archive can't be had, or is not what the lock says."""


class PortTaken(MachineError):
    """A port that was asked for is in use."""


class DiskFull(MachineError):
    """There is no room left where a component or the cache writes."""


class StackError(CdcpipeError):
    """A pipeline can't be brought up, taken down, or asked."""

    exit_code = 2


class StackBusy(StackError, Transient):
    """Another `cdcpipe` process is working on this stack."""


class StackNotRunning(StackError):
    """The stack that was asked for is not up."""


class ComponentFailed(StackError):
    """A component died, or did not become ready in time; `detail` ends with the last lines of its log."""

    def __init__(self, component: str, message: str, *, hint: str | None = None, detail: str | None = None) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.component = component


class FaultError(StackError):
    """A fault could not be injected, took no effect, or did not heal."""


class FaultNotSupported(FaultError):
    """This kind of stack, or this machine, can't do the fault; the message says why."""


class ServiceError(CdcpipeError):
    """A server answered with an error, or not at all."""

    exit_code = 2


class PostgresError(ServiceError):
    """PostgreSQL refused a statement or a connection."""


class KafkaError(ServiceError):
    """A broker refused a request, or can't be reached."""


class ConnectError(ServiceError):
    """Kafka Connect refused a request; `status` is the HTTP status, None when there was no answer."""

    def __init__(
        self, message: str, *, status: int | None = None, hint: str | None = None, detail: str | None = None
    ) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.status = status


class ConnectUnavailable(ConnectError, Transient):
    """Kafka Connect doesn't answer, is still rebalancing, or did not reach the awaited state in time."""


class RegistryError(ServiceError):
    """The schema registry refused a request; `status` is the HTTP status, `code` the registry's own."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        hint: str | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.status = status
        self.code = code


class StorageError(ServiceError):
    """The S3 server or the table catalog refused a request, or can't be reached."""


class EvidenceError(CdcpipeError):
    """What was to be judged can't be read whole: a topic, object, slot or schema is gone.

    A check that meets it answers `inconclusive`, never `pass`.
    """

    exit_code = 3
