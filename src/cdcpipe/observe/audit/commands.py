"""Commands of ours in the trail: who called which, on which stack, and how it ended."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cdcpipe.errors import CdcpipeError
from cdcpipe.observe.audit.anchors import FileAnchors
from cdcpipe.observe.audit.trail import Entry, Fact, Outcome, Trail, trail_of
from cdcpipe.settings import load_settings

__all__ = ["append", "recorded", "whoami"]

log = logging.getLogger("cdcpipe.observe.audit")

_SECRET: Final = re.compile(r"(?i)pass(word)?|secret|token|credential|api[-_]?key")


def whoami() -> str:
    """The person at the keyboard, as far as the machine knows: `user@host`, and who became root by `sudo`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"
    behind = os.environ.get("SUDO_USER")
    return f"{behind}({user})@{socket.gethostname()}" if behind and behind != user else f"{user}@{socket.gethostname()}"


def _redacted(words: Sequence[str]) -> list[str]:
    """The words without what looks like a credential: values of options with such a name, passwords in addresses."""
    shown: list[str] = []
    hidden = False
    for word in words:
        name, equals, _ = word.partition("=")
        if hidden and not word.startswith("-"):
            shown.append("***")
        elif equals and _SECRET.search(name):
            shown.append(f"{name}=***")
        else:
            shown.append(re.sub(r"(://[^/@:\s]*):[^/@\s]+@", r"\1:***@", word))
        hidden = word.startswith("--") and not equals and bool(_SECRET.search(word))
    return shown


def _stack_of(words: Sequence[str]) -> Path | None:
    for index, word in enumerate(words):
        if word == "--stack" and index + 1 < len(words):
            return Path(words[index + 1])
        if word.startswith("--stack="):
            return Path(word.removeprefix("--stack="))
    return None


@contextlib.contextmanager
def recorded(words: Sequence[str]) -> Iterator[None]:
    """Note a command before it runs and when it has ended, in the trail of the stack that it works on.

    A trail that can't be written stops no command: the operator is told on the log, and the command runs.
    """
    stack = _stack_of(words)
    try:
        settings = load_settings(stack=stack)
        trail = trail_of(settings)
    except CdcpipeError:
        yield  # the command itself says what is wrong with the settings
        return
    from cdcpipe.observe.logs import write_to

    verb = " ".join(word for word in words[:2] if not word.startswith("-"))
    base: dict[str, Any] = {"words": _redacted(words), "pid": os.getpid()}
    target = str(settings.stack.absolute())
    begun = _note(trail, "command.begun", target, "begun", base | {"verb": verb})
    outcome: Outcome = "failed"
    extra: dict[str, Any] = {}
    try:
        folder = settings.stack.absolute()
        with write_to(folder / "log", credentials=folder / "credentials.json", run=f"{verb} {os.getpid()}"):
            log.info("began: %s", " ".join(base["words"]))
            try:
                yield
            except Exception as error:
                log.error("ended: %s: %s", type(error).__name__, error)
                raise
            log.info("ended")
        outcome = "ok"
    except BaseException as error:
        code = getattr(error, "exit_code", None)
        extra = {"exit_code": code} if isinstance(code, int) else {"error": type(error).__name__}
        if code == 0:
            outcome = "ok"
        elif code == 2 and _is_usage(error):
            outcome = "refused"
        raise
    finally:
        detail = base | extra | {"verb": verb} | ({"begun": begun} if begun is not None else {})
        _note(trail, "command.ended", target, outcome, detail)


def _is_usage(error: BaseException) -> bool:
    return any(each.__name__ == "UsageError" for each in type(error).__mro__)


def _note(trail: Trail, action: str, target: str, outcome: Outcome, detail: Mapping[str, Any]) -> int | None:
    fact = Fact(datetime.now(UTC), "cdcpipe", whoami(), action, target, outcome, detail)
    try:
        return append(trail, [fact])[-1].seq
    except CdcpipeError as error:
        log.warning("this command is not in the audit trail: %s", error.message)
        return None


def append(trail: Trail, facts: Sequence[Fact]) -> list[Entry]:
    """Append `facts` and anchor the new head in the user's state folder. A cut that the last anchor shows is told."""
    anchors = FileAnchors(trail.folder)
    missed = anchors.check(lambda: None if (head := trail.head()) is None else (head.seq, head.hash))
    if missed is not None:
        end = trail.head()
        detail = {"anchor_seq": missed.seq, "anchor_hash": missed.hash, "ends_at": 0 if end is None else end.seq}
        log.warning("the audit trail in `%s` was cut or written anew: see `cdcpipe audit verify`", trail.folder)
        facts = [Fact(datetime.now(UTC), "trail", "cdcpipe", "trail.cut-found", missed.place, "failed", detail), *facts]
    entries = trail.append(facts)
    if entries:
        anchors.write(entries[-1].seq, entries[-1].hash)
    return entries
