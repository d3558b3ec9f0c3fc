"""What Connect noted: what was recorded in its config topic, and who asked for it in the log of its REST server.

The topic is the truth: a worker does what stands there, whoever wrote it, so a change that went around the REST API is
seen too. The log has who asked, from where, and what was refused. Connect's REST API knows no users: who is an address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from cdcpipe.connect.references import is_reference, is_sensitive
from cdcpipe.errors import EvidenceError
from cdcpipe.ledger.kafka import PartitionReader
from cdcpipe.observe.audit.trail import Fact, Outcome
from cdcpipe.observe.logs import Line

__all__ = ["facts_of_access_log", "facts_of_config_topic"]

_REQUEST: Final = re.compile(
    r'\S+Z \w+\s+(?P<host>\S+) \S+ (?P<user>\S+) \[[^\]]+\] "(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" '
    r'(?P<status>\d+) \S+(?: "[^"]*" "(?P<agent>[^"]*)")?'
)
_VERBS: Final[tuple[tuple[str, str, str], ...]] = (
    ("POST", r"/connectors/?$", "connector.created"),
    ("PUT", r"/connectors/([^/]+)/config$", "connector.configured"),
    ("PATCH", r"/connectors/([^/]+)/config$", "connector.configured"),
    ("DELETE", r"/connectors/([^/]+)/?$", "connector.deleted"),
    ("POST", r"/connectors/([^/]+)/(?:tasks/\d+/)?restart$", "connector.restarted"),
    ("PUT", r"/connectors/([^/]+)/pause$", "connector.paused"),
    ("PUT", r"/connectors/([^/]+)/resume$", "connector.resumed"),
    ("PUT", r"/connectors/([^/]+)/stop$", "connector.stopped"),
    ("PATCH", r"/connectors/([^/]+)/offsets$", "offsets.altered"),
    ("DELETE", r"/connectors/([^/]+)/offsets$", "offsets.reset"),
    ("PUT", r"/connectors/([^/]+)/topics/reset$", "topics.reset"),
    ("PUT", r"/admin/loggers/([^/]+)$", "logger.changed"),
)
# What workers ask of each other, and what only validates.
_INTERNAL: Final = re.compile(r"/connectors/[^/]+/(tasks|fence)$|/connector-plugins/.*/validate$")


def facts_of_access_log(lines: Iterable[Line]) -> Iterator[Fact]:
    """Requests that asked for a change."""
    for line in lines:
        found = _REQUEST.match(line.text)
        if found is None or line.at is None:
            continue
        path = found["path"].partition("?")[0]
        if _INTERNAL.search(path):
            continue
        action, object_ = _action(found["method"], path)
        status = int(found["status"])
        outcome: Outcome = "ok" if status < 400 else "refused" if status < 500 else "failed"
        actor = found["host"] if found["user"] == "-" else f"{found['user']}@{found['host']}"
        detail = {"request": f"{found['method']} {found['path']}", "status": status, "agent": found["agent"] or ""}
        yield Fact(line.at, "connect", actor, action, object_, outcome, detail)


def _action(method: str, path: str) -> tuple[str, str]:
    for verb, pattern, action in _VERBS:
        if verb == method and (found := re.search(pattern, path)):
            return action, found[1] if found.groups() else "connectors"
    return f"rest.{method.lower()}", path


def facts_of_config_topic(bootstrap_servers: str, topic: str, after: int) -> tuple[list[Fact], int]:
    """What was recorded at offsets above `after`, and the highest offset that was read.

    The topic is small, and read from its beginning each time: so each change is told by what it changed. Where
    compaction took the version before, the whole config counts as new. Values of credentials are never told.
    """
    reader = PartitionReader(bootstrap_servers, [topic])
    facts: list[Fact] = []
    before: dict[str, Any] = {}
    last = after
    try:
        for messages in reader.batches():
            for message in messages:
                key = (message.key() or b"").decode("utf-8", "replace")
                value = None if message.value() is None else json.loads(message.value())
                if message.offset() > after:
                    at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
                    fact = _recorded(at, key, before.get(key), value)
                    facts.extend([] if fact is None else [fact])
                    last = max(last, message.offset())
                before[key] = value
    except ValueError as error:
        raise EvidenceError(f"topic `{topic}` holds what is no config of Connect: {error}") from error
    if reader.reasons and not facts:
        raise EvidenceError(f"topic `{topic}` can't be read: {reader.reasons[0]}")
    return facts, last


def _recorded(at: datetime, key: str, before: Any, now: Any) -> Fact | None:
    kind, _, name = key.partition("-")
    if kind == "connector":
        old, new = _properties(before), _properties(now)
        action = "config.deleted" if now is None else "config.changed" if before else "config.created"
        changed = {each: _pair(each, old, new) for each in sorted({*old, *new}) if old.get(each) != new.get(each)}
        if not changed and now is not None:
            return None
        return Fact(at, "connect", "connect", action, name, "ok", {"changed": changed} if now is not None else {})
    if kind == "target" and now is not None:  # target-state-<name>
        state = now.get("state.v2") or now.get("state")
        return Fact(at, "connect", "connect", "state.changed", name.partition("-")[2], "ok", {"state": state})
    if kind == "restart" and now is not None:  # restart-connector-<name>
        detail = {"only_failed": now.get("only-failed"), "include_tasks": now.get("include-tasks")}
        return Fact(at, "connect", "connect", "restart.recorded", name.partition("-")[2], "ok", detail)
    return None  # tasks and commits follow from these; the session key is a secret


def _properties(value: Any) -> Mapping[str, str]:
    return {} if not isinstance(value, dict) else value.get("properties", {})


def _pair(key: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str | None]:
    return [_shown(key, old.get(key)), _shown(key, new.get(key))]


def _shown(key: str, value: str | None) -> str | None:
    if value is None or not is_sensitive(key) or is_reference(value.strip()):
        return value
    return "***"
