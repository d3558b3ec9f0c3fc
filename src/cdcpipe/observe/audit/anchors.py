"""Anchors: the number and hash of a trail's last entry, kept where whoever may write the trail should not write.

Three places: a file of the user's state folder (another folder than the project's), a table of the source database to
which the witness may only add rows, and a line that an operator wrote down (`--anchor N:HASH`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import platformdirs

from cdcpipe.errors import MachineError, PostgresError, UsageError
from cdcpipe.stack.endpoints import PostgresEndpoint

if TYPE_CHECKING:
    import psycopg

__all__ = ["Anchor", "Anchors", "FileAnchors", "PostgresAnchors", "Witness", "parse_anchor"]

_KEPT: Final = 64
"""Anchors that a file keeps: the newest, each of which vouches for all entries before it, and those in dispute."""

AUDIT_SCHEMA: Final = "cdcpipe_audit"


@dataclass(frozen=True, slots=True)
class Anchor:
    """The hash of entry `seq`, as `place` knows it."""

    seq: int
    hash: str
    place: str


class Anchors(Protocol):
    """A place for anchors."""

    def read(self) -> list[Anchor]:
        """All that it knows of the trail."""

    def write(self, seq: int, hash_: str) -> None:
        """Note the trail's head."""


def parse_anchor(text: str) -> Anchor:
    """`N:HASH`, as `cdcpipe audit verify` prints it. Raises `UsageError`."""
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) != 64 or any(each not in "0123456789abcdef" for each in digest):
        raise UsageError(f"`{text}` is no anchor", hint="it is `N:HASH`, as `cdcpipe audit verify` prints it")
    return Anchor(int(number), digest, "the anchor that was given")


class FileAnchors:
    """Anchors of the trail in `folder`, in a file of the user's state folder."""

    def __init__(self, folder: Path, *, state: Path | None = None) -> None:
        base = state if state is not None else platformdirs.user_state_path("cdcpipe") / "anchors"
        self.path = base / f"{hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:32]}.json"

    def read(self) -> list[Anchor]:
        """As `Anchors.read`. Raises `MachineError` for a file that is none of ours."""
        known, disputed = self._load()
        return [Anchor(seq, digest, f"`{self.path}`") for seq, digest in [*disputed, *known]]

    def write(self, seq: int, hash_: str) -> None:
        """As `Anchors.write`; a number that is known, or below one that is, changes nothing."""
        known, disputed = self._load()
        if not known or seq > known[-1][0]:
            self._save([*known, (seq, hash_)][-_KEPT:], disputed)

    def check(self, head_of: Callable[[], tuple[int, str] | None]) -> Anchor | None:
        """The newest anchor, if a trail that ends with `head_of()` can't be the one that it vouches for; else None.

        It is kept for good then: what is appended to the trail later doesn't make its tail come back.
        """
        known, disputed = self._load()
        head = head_of()  # after the anchors: another process may append between the two
        if not known or (head is not None and (head[0] > known[-1][0] or head == known[-1])):
            return None
        end = 0 if head is None else head[0]
        self._save([each for each in known if each[0] < end], [*disputed, *(each for each in known if each[0] >= end)])
        return Anchor(*known[-1], f"`{self.path}`")

    def _load(self) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            known, disputed = (
                [(int(seq), str(digest)) for seq, digest in content[part]] for part in ("anchors", "disputed")
            )
            return known, disputed
        except FileNotFoundError:
            return [], []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MachineError(f"the anchors in `{self.path}` can't be read: {error}") from error

    def _save(self, known: list[tuple[int, str]], disputed: list[tuple[int, str]]) -> None:
        content = {"schema": "cdcpipe.anchors/1", "anchors": known, "disputed": disputed}
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            staging = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            staging.write_text(json.dumps(content), encoding="utf-8")
            staging.replace(self.path)
        except OSError as error:
            raise MachineError(f"the anchors in `{self.path}` can't be written: {error}") from error


class Witness:
    """A session of the witness in the source database, opened on first use and again after it was lost.

    One session for all questions: each that is opened is an entry of the trail. Close it, or use it as a context.
    """

    def __init__(self, postgres: PostgresEndpoint) -> None:
        self._postgres = postgres
        self._connection: psycopg.Connection | None = None

    def query(self, statement: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        """The rows that it answers, each statement on its own. Raises `PostgresError`."""
        import psycopg  # a command of ours that notes itself needs no database

        try:
            if self._connection is None or self._connection.closed:
                conninfo = f"{self._postgres.conninfo('witness')} application_name=cdcpipe-audit connect_timeout=10"
                self._connection = psycopg.connect(conninfo, autocommit=True)
            cursor = self._connection.execute(statement.encode(), list(values))
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            self.close()
            raise PostgresError(f"the audit tables in PostgreSQL can't be reached: {str(error).strip()}") from error

    def close(self) -> None:
        """End the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PostgresAnchors:
    """Anchors in table `cdcpipe_audit.anchor` of the source database, to which the witness may only add.

    `trail` is the object of the trail's first entry, which no other trail has.
    """

    def __init__(self, witness: Witness, trail: str) -> None:
        self._witness = witness
        self._trail = trail

    def read(self) -> list[Anchor]:
        """As `Anchors.read`; nothing where the database has no such table."""
        if not self._witness.query("SELECT to_regclass(%s)::text", [f"{AUDIT_SCHEMA}.anchor"])[0][0]:
            return []
        rows = self._witness.query(f"SELECT seq, hash FROM {AUDIT_SCHEMA}.anchor WHERE trail = %s", [self._trail])
        return [Anchor(int(str(seq)), str(digest), f"table {AUDIT_SCHEMA}.anchor") for seq, digest in rows]

    def write(self, seq: int, hash_: str) -> None:
        """As `Anchors.write`."""
        self._witness.query(
            f"INSERT INTO {AUDIT_SCHEMA}.anchor (trail, seq, hash, at) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [self._trail, seq, hash_, datetime.now(UTC)],
        )
