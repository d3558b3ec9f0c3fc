"""A check: one claim about the ledgers, and how it is answered from the findings.

**Claims are literal.** One damage can refute several: a lost update also leaves a gap in its key's chain. Each finding
that another anomaly explains carries that anomaly as its `cause`; the check still fails, but as a consequence. The
anomalies to act on are those with a finding that nothing explains (`Report.anomalies`).

**No evidence is no pass.** A check whose ledgers are missing, incomplete or empty is `inconclusive`. What an
incomplete ledger lacks may not have been read, so an absence in it proves nothing. A check whose subject doesn't
occur (no snapshot was taken, nothing names an hour) does not apply, and doesn't enter the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import ibis

from cdcpipe.verify.case import Case
from cdcpipe.verify.evidence import Evidence
from cdcpipe.verify.tables import FINDINGS, Expr
from cdcpipe.verify.verdict import CheckResult, Group, Image, Place, Verdict, Witness

__all__ = ["Check", "Tally", "answer", "tally"]

Side = Literal["wal", "log", "archive", "later"]


@dataclass(frozen=True, slots=True)
class Check:
    """One claim.

    `stage` makes its findings. `needs` are the ledgers it compares; a finding says that something is absent in
    `absent_in`, if that is what it says. Findings `also` of other names refute the claim too, and explain it: it is
    their consequence. `applies` gives a reason when the subject doesn't occur.
    """

    name: str
    group: Group
    claim: str
    not_proven: str
    stage: str
    needs: tuple[Side, ...]
    place: Place | None = None
    absent_in: Side | None = None
    also: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    looked_at: Callable[[Case], int] = field(default=lambda case: case.totals.streamed)
    applies: Callable[[Case], str | None] = field(default=lambda case: None)

    @property
    def places(self) -> tuple[str | None, ...]:
        """Of its findings."""
        return (self.place,) if self.place else (None, "source", "sink")


@dataclass(frozen=True, slots=True)
class Tally:
    """Findings by name, place, kind of repetition, and whether another anomaly explains them."""

    rows: tuple[tuple[str, str | None, str | None, bool, int], ...]

    def of(self, name: str, places: Iterable[str | None]) -> list[tuple[str | None, bool, int]]:
        """`(repeat, explained, n)` of one anomaly."""
        wanted = set(places)
        return [row[2:] for row in self.rows if row[0] == name and row[1] in wanted]

    def count(self, name: str, place: str | None = None) -> int:
        """How many in all."""
        return sum(row[4] for row in self.rows if row[0] == name and (place is None or row[1] == place))


def tally(case: Case) -> Tally:
    """Count the findings of `case`."""
    if "prepare" in case.failures:
        return Tally(())
    rows = case.engine.rows(findings_counted)
    return Tally(
        tuple((row["name"], row["place"], row["repeat"], bool(row["explained"]), int(row["n"])) for row in rows)
    )


def findings_counted() -> Expr:
    """Findings by what a tally tells apart."""
    t = FINDINGS.mutate(explained=FINDINGS["cause"].notnull())
    return t.group_by("name", "place", "repeat", "explained").agg(n=t.count())


def answer(check: Check, case: Case, found: Tally) -> CheckResult:
    """The result of one check."""
    looked_at = check.looked_at(case)
    counts = {name: found.count(name, check.place) for name in check.counts}

    def result(verdict: Verdict, **values: Any) -> CheckResult:
        return CheckResult(
            name=check.name,
            group=check.group,
            place=check.place,
            claim=check.claim,
            not_proven=check.not_proven,
            verdict=verdict,
            looked_at=looked_at,
            counts=counts,
            seconds=case.seconds.get(check.stage, 0.0),
            **values,
        )

    absent = [side for side in check.needs if _ledger(case, side) is None]
    if absent:
        names = " and ".join("log or archive" if side == "later" else side for side in absent)
        return result(Verdict.INCONCLUSIVE, applies=False, reason=f"there is no {names} ledger")
    if check.stage in case.failures:
        return result(Verdict.INCONCLUSIVE, reason=case.failures[check.stage])
    not_there = check.applies(case)
    rows = found.of(check.name, check.places)
    if not_there is not None and not rows:
        return result(Verdict.INCONCLUSIVE, applies=False, reason=not_there)

    others = [(name, n) for name in check.also for _, _, n in found.of(name, check.places)]
    level = case.terms.level
    allowed = sum(n for repeat, _, n in rows if repeat and level.allows_repeat(identical=repeat == "identical"))
    bad = [row for row in rows if not (row[0] and level.allows_repeat(identical=row[0] == "identical"))]
    explained = sum(n for _, explained, n in bad if explained) + sum(n for _, n in others)
    total = sum(n for _, _, n in bad) + sum(n for _, n in others)
    facts = {"found": total, "explained": explained, "allowed": allowed}
    witnesses = _witnesses(check, case) if rows or others else ()
    doubt = _doubt(check, case)
    if total and doubt is None:
        return result(Verdict.FAIL, witnesses=witnesses, **facts)
    if total:
        return result(Verdict.INCONCLUSIVE, witnesses=witnesses, reason=doubt, **facts)
    partial = [reason for side in check.needs for reason in _reasons(case, side)]
    if partial:
        return result(Verdict.INCONCLUSIVE, witnesses=witnesses, reason="; ".join(dict.fromkeys(partial)), **facts)
    if looked_at == 0:
        return result(Verdict.INCONCLUSIVE, reason="there was nothing to look at", **facts)
    return result(Verdict.PASS, witnesses=witnesses, **facts)


def _doubt(check: Check, case: Case) -> str | None:
    """Why findings may be wrong: what is absent in a ledger may not have been read."""
    if check.absent_in is None:
        return None
    reasons = _reasons(case, check.absent_in)
    if reasons:
        return "what is missing may not have been read: " + "; ".join(reasons)
    return None


def _ledger(case: Case, side: Side) -> Evidence | None:
    return {"wal": case.wal, "log": case.log, "archive": case.archive, "later": case.later}[side]


def _reasons(case: Case, side: Side) -> list[str]:
    evidence = _ledger(case, side)
    if evidence is None or evidence.complete:
        return []
    return [f"the {evidence.kind} ledger is not complete: {reason}" for reason in evidence.reasons]


# --- witnesses -----------------------------------------------------------------


def witness_rows(name: str, also: tuple[str, ...], place: str | None, limit: int) -> Expr:
    """The most telling findings: those that nothing explains, in the order of their commits."""
    t = FINDINGS.filter(FINDINGS["name"].isin((name, *also)))
    t = t.mutate(cause=ibis.cases((t["name"] != name, t["name"]), else_=t["cause"]))
    if place is not None:
        t = t.filter(t["place"] == place)
    order = ("cause", "commit_lsn", "xid", "seq", "topic", "partition", "offset")
    return t.order_by([ibis.asc(t[each], nulls_first=each == "cause") for each in order]).limit(limit)


def wanted_images(view: str) -> Expr:
    """The images of witnesses that a ledger kept."""
    t = ibis.table({"hash": "binary", "image": "string"}, name=view)
    wanted = ibis.table({"hash": "binary"}, name="wanted_images")
    return t.semi_join(wanted, "hash").distinct()


_IMAGE_COLUMNS = ("expected_before", "expected_after", "found_before", "found_after")


def _witnesses(check: Check, case: Case) -> tuple[Witness, ...]:
    rows = case.engine.rows(witness_rows, check.name, check.also, check.place, case.terms.witnesses)
    hashes = {row[name] for row in rows for name in _IMAGE_COLUMNS if row[name] is not None}
    case.engine.define_rows("wanted_images", {"hash": "binary"}, [(each,) for each in hashes])
    texts: dict[bytes, str] = {}
    for view in ("wal_images", "log_images", "archive_images") if hashes else ():
        texts |= {bytes(row["hash"]): row["image"] for row in case.engine.rows(wanted_images, view)}
    return tuple(_witness(check, row, texts) for row in rows)


def _witness(check: Check, row: dict[str, Any], texts: dict[bytes, str]) -> Witness:
    def image(name: str) -> Image | None:
        value = row[name]
        return None if value is None else Image(bytes(value).hex(), texts.get(bytes(value)))

    def both(prefix: str) -> dict[str, Image | None] | None:
        sides = {"before": image(f"{prefix}_before"), "after": image(f"{prefix}_after")}
        return sides if any(sides.values()) else None

    return Witness(
        note=row["note"] or check.name.replace("-", " "),
        table=row["table"],
        key=None if row["key"] is None else bytes(row["key"]).decode(errors="backslashreplace"),
        op=row["op"],
        xid=row["xid"],
        seq=row["seq"],
        commit_lsn=row["commit_lsn"],
        lsn=row["lsn"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        object=row["object"],
        committed_at=_time(row["committed_at"]),
        expected=both("expected"),
        found=both("found"),
        cause=row["cause"],
    )


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
