"""Who reads and writes objects: the access log of an observed S3 server, as it sends it.

SeaweedFS sends each request by fluentd's forward protocol, in JSON, to a socket in its folder; whoever may open that
folder may listen, and nobody else may send. What nobody hears waits in the server's memory (4,096 requests), and is
lost when the server ends or the buffer is full: `access.heard` and `access.unheard` in the trail say when we listened.

The log knows requests of the S3 API only. A filer that is asked directly leaves no line here: keep its port closed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from cdcpipe.errors import MachineError, StackBusy
from cdcpipe.observe.audit.trail import Fact, Outcome

__all__ = ["AccessListener", "fact_of"]

log = logging.getLogger("cdcpipe.observe.audit")

_VERBS: Final = {"GET": "read", "HEAD": "looked-at", "PUT": "written", "POST": "written", "DELETE": "deleted"}
_PATH_BYTES_MAX: Final = 100


def fact_of(record: dict[str, Any]) -> Fact:
    """A request, as the server logs it. KeyError, TypeError or ValueError for what is none."""
    _, verb, kind = str(record["operation"]).split(".", 2)
    status = int(record["status"])
    key, bucket = str(record["key"]), str(record["bucket"])
    outcome: Outcome = "ok" if status < 400 else "refused" if status in (401, 403) else "failed"
    if key:
        action = f"object.{_VERBS.get(verb, verb.lower())}"
    else:
        action = "bucket.listed" if verb in ("GET", "HEAD") else f"bucket.{verb.lower()}"
    detail = {
        "status": status,
        "host": str(record["remote_ip"]),
        "agent": str(record["user_agent"]).partition(" ")[0],
        "kind": kind.lower(),
    }
    if record.get("error_code"):
        detail["error"] = str(record["error_code"])
    actor = str(record.get("requester") or "") or "nobody"
    return Fact(
        _time(record), "s3", actor, action, f"s3://{bucket}/{key}" if key else f"s3://{bucket}", outcome, detail
    )


def _time(record: dict[str, Any]) -> datetime:
    """The request's number begins with its time in nanoseconds; `time` has whole seconds only."""
    seconds = float(record["time"])
    try:
        exact = int(str(record["request_id"])[:16], 16) / 1e9
    except ValueError:
        exact = seconds
    return datetime.fromtimestamp(exact if abs(exact - seconds) < 60 else seconds, UTC)


def messages(text: str) -> tuple[list[Any], str]:
    """The JSON values that `text` begins with, and the rest."""
    decoder, place = json.JSONDecoder(), 0
    found: list[Any] = []
    while True:
        while place < len(text) and text[place] in " \r\n\t":
            place += 1
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError:
            return found, text[place:]
        found.append(value)


class AccessListener:
    """Listens at `path` in threads of its own and gives facts to `take`, about once a second, until it is closed.

    `StackBusy` while another one listens there: the server sends each request to one of them only.
    """

    def __init__(self, path: Path, take: Callable[[Sequence[Fact]], None]) -> None:
        self._path = path
        self._take = take
        self._ended = threading.Event()
        self._waiting: list[Fact] = []
        self._lock = threading.Lock()
        self._alone = FileLock(path.with_suffix(".lock"), thread_local=False)
        self._server = _listen(path, self._alone)
        self._threads = [
            threading.Thread(target=work, name=f"cdcpipe-audit-{work.__name__}", daemon=True)
            for work in (self._accept, self._hand_over)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Hand over what was heard, and end."""
        self._ended.set()
        for thread in self._threads:
            thread.join(10)
        self._server.close()
        self._path.unlink(missing_ok=True)
        self._alone.release()

    def _accept(self) -> None:
        readers: list[threading.Thread] = []
        while not self._ended.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            except OSError:
                break
            reader = threading.Thread(target=self._read, args=(connection,), daemon=True)
            reader.start()
            readers.append(reader)
        for reader in readers:
            reader.join(5)

    def _read(self, connection: socket.socket) -> None:
        text = ""
        with connection:
            connection.settimeout(0.5)
            while not self._ended.is_set():
                try:
                    content = connection.recv(1 << 16)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not content:
                    return
                found, text = messages(text + content.decode("utf-8", "replace"))
                facts = [fact for message in found for fact in _facts(message)]
                with self._lock:
                    self._waiting.extend(facts)

    def _hand_over(self) -> None:
        while True:
            ended = self._ended.wait(1.0)
            if ended:
                time.sleep(0.6)  # the readers end within half a second
            with self._lock:
                facts, self._waiting = self._waiting, []
            if facts:
                self._take(sorted(facts, key=lambda fact: fact.at))
            if ended:
                return


def _facts(message: Any) -> Iterator[Fact]:
    """Those of a message of the forward protocol: `[tag, time, record, option]`."""
    try:
        record = message[2]
        if isinstance(record, dict):
            yield fact_of(record)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        log.warning("a record of the S3 access log has another form: %s", error)


def _listen(path: Path, alone: FileLock) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.settimeout(0.5)
    try:
        alone.acquire(blocking=False)
        path.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # The name of a socket holds 108 bytes: a deep folder is named by its descriptor.
            short = str(path) if len(os.fsencode(path)) < _PATH_BYTES_MAX else f"/proc/self/fd/{folder}/{path.name}"
            server.bind(short)
            os.chmod(path, 0o600)
        finally:
            os.close(folder)
        server.listen(8)
    except Timeout as error:
        server.close()
        raise StackBusy(f"another process hears the S3 access log at `{path}`") from error
    except OSError as error:
        server.close()
        alone.release()
        raise MachineError(f"the S3 access log can't be heard at `{path}`: {error.strerror or error}") from error
    return server
