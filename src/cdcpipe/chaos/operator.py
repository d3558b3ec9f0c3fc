"""The operator of a run: restarts tasks that failed for good, which Connect itself never does.

What Strimzi's `autoRestart` does for a KafkaConnector, sooner: a task that has been FAILED for ten seconds is
restarted, and each further restart of the same connector waits twice as long. Each is an intervention that the report
tells: a pipeline that comes back by itself has none.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final, Self

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ConnectError

__all__ = ["Operator"]

_LOOK_SECONDS: Final = 3.0
_PATIENCE_SECONDS: Final = 10.0


class Operator:
    """Watches `connectors` while it is open. `interventions` says what it did, in order."""

    def __init__(self, connect_url: str, connectors: tuple[str, ...]) -> None:
        self._url = connect_url
        self._failed: dict[str, float] = {}  # since when, monotonic
        self._patience = dict.fromkeys(connectors, _PATIENCE_SECONDS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="operator", daemon=True)
        self.interventions: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _watch(self) -> None:
        with ConnectClient(self._url, timeout_seconds=5) as client:
            while not self._stop.wait(_LOOK_SECONDS):
                for name in self._patience:
                    with contextlib.suppress(ConnectError):  # it is away: nobody knows, nobody acts
                        self._look(client, name)

    def _look(self, client: ConnectClient, name: str) -> None:
        cause = client.status(name).cause
        if cause is None:
            self._failed.pop(name, None)
            return
        since = self._failed.setdefault(name, time.monotonic())
        if time.monotonic() - since < self._patience[name]:
            return
        client.restart(name, only_failed=True)
        del self._failed[name]
        self._patience[name] *= 2
        self.interventions.append(f"a task of `{name}` had failed for good and was restarted: {cause}")
