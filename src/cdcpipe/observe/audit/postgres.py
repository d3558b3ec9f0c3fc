"""What PostgreSQL noted: sessions, refusals, readers of the WAL and DDL out of its log; DDL that took effect out of the
table that an event trigger fills; and where the server has pgaudit, each statement that it audits.

Without pgaudit the log does not say which rows or tables a session read: only who was there, and who was refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from cdcpipe.observe.audit.anchors import AUDIT_SCHEMA, Witness
from cdcpipe.observe.audit.trail import Fact
from cdcpipe.observe.logs import Line

__all__ = ["applied_ddl", "facts_of_log"]

_STATEMENT_CHARS: Final = 2000

_RECORD: Final = re.compile(
    r"\S+ \S+ UTC \[(?P<pid>\d+)\] (?P<user>\S*)@(?P<database>\S*) (?P<level>[A-Z]+):  (?P<text>.*)", re.DOTALL
)
_RECEIVED: Final = re.compile(r"connection received: host=(\S+)")
_AUTHORIZED: Final = re.compile(
    r"(?P<replication>replication )?connection authorized: user=(?P<user>\S+)(?: database=(?P<database>\S+))?"
    r"(?: application_name=(?P<application>.*?))?(?: SSL .*| GSS .*)?$"
)
_REPLICATION: Final = re.compile(r"received replication command: (.*)", re.DOTALL)
_SLOT: Final = re.compile(r"SLOT\s+\"?([A-Za-z0-9_]+)\"?")
_DDL: Final = re.compile(r"(?:statement|execute [^:]*): (.*)", re.DOTALL)
_DENIED: Final = re.compile(r"permission denied for (.*)")
_PASSWORD: Final = re.compile(r"(?i)(password\s*(?:=\s*)?(?:E)?)('(?:[^']|'')*'|\"[^\"]*\")")
# A login that fails ends with FATAL; so does a session that a shutdown cuts off, which nobody was refused.
_NO_REFUSAL: Final = re.compile(r"terminating|shutting down|starting up|canceling|recovery")


def facts_of_log(lines: Iterable[Line]) -> Iterator[Fact]:
    """What lines of the server's log say of who read or changed what."""
    hosts: dict[str, str] = {}
    for line in lines:
        found = _RECORD.match(line.text)
        if found is None or line.at is None:
            continue
        text = found["text"]
        if received := _RECEIVED.match(text):
            hosts[found["pid"]] = received[1]
            continue
        made = _fact(found, text, hosts.get(found["pid"]))
        if made is not None:
            actor, action, object_, outcome, detail = made
            yield Fact(line.at, "postgres", actor, action, object_, outcome, detail)


def _fact(found: re.Match[str], text: str, host: str | None) -> tuple[str, str, str, Any, dict[str, Any]] | None:
    user, database, level = found["user"], found["database"], found["level"]
    where = {"host": host} if host else {}
    if authorized := _AUTHORIZED.match(text):
        kind = "replication.opened" if authorized["replication"] else "session.opened"
        detail = where | {"application": authorized["application"] or ""}
        return authorized["user"], kind, authorized["database"] or database, "ok", detail
    if level == "FATAL" and not _NO_REFUSAL.search(text):
        return user, "session.refused", database, "refused", where | {"reason": text.splitlines()[0]}
    if level == "ERROR" and (denied := _DENIED.match(text)):
        return user, "access.refused", denied[1].splitlines()[0], "refused", where | {"database": database}
    if level != "LOG":
        return None
    if replication := _REPLICATION.match(text):
        command = replication[1].split()[0]
        slot = _SLOT.search(replication[1])
        action = "wal.read" if command == "START_REPLICATION" else "replication.command"
        return user, action, slot[1] if slot else database, "ok", where | {"command": command}
    if text.startswith("AUDIT: "):
        return _pgaudit(user, database, text.removeprefix("AUDIT: "))
    if ddl := _DDL.match(text):
        statement = _PASSWORD.sub(r"\1'***'", ddl[1])[:_STATEMENT_CHARS]
        words = " ".join(statement.split()[:2]).upper()
        return user, "ddl.asked", database, "ok", where | {"command": words, "statement": statement}
    return None


def _pgaudit(user: str, database: str, text: str) -> tuple[str, str, str, Any, dict[str, Any]] | None:
    """`SESSION,1,1,READ,SELECT,TABLE,public.t,"select ...",<not logged>`: pgaudit's README, "Format"."""
    fields = next(csv.reader([text.replace("\n", " ")]), [])
    if len(fields) < 8:
        return None
    class_, command, object_, statement = fields[3], fields[4], fields[6], fields[7]
    detail = {"command": command, "statement": _PASSWORD.sub(r"\1'***'", statement)[:_STATEMENT_CHARS]}
    return user, f"pgaudit.{class_.lower()}", object_ or database, "ok", detail


def applied_ddl(witness: Witness, after: int) -> tuple[list[Fact], int]:
    """DDL of transactions from `after` on that are over, and the first transaction that may not be.

    Nothing where the database has no such table. Whoever calls again with the second answer gets each once: by the
    numbers of rows alone, those of a transaction that commits late would be passed over.
    """
    if not witness.query("SELECT to_regclass(%s)::text", [f"{AUDIT_SCHEMA}.ddl"])[0][0]:
        return [], after
    # The bound first: a later snapshot sees all that was over then.
    begin = int(witness.query("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")[0][0])
    rows = witness.query(
        f"SELECT at, xid::text, role, application, client, command, kind, object FROM {AUDIT_SCHEMA}.ddl "
        "WHERE xid >= %s::text::xid8 AND xid < %s::text::xid8 ORDER BY xid, id",
        [str(after), str(begin)],
    )
    found = []
    for at, xid, role, application, client, command, kind, object_ in rows:
        detail = {"command": command, "kind": kind, "xid": xid, "application": application, "host": client}
        found.append(Fact(at, "postgres", role, "ddl.applied", object_, "ok", detail))
    return found, begin
