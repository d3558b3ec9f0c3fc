"""The archive folded up to a cut, and compared with the tables as they were then. See `cdcpipe.verify.cut`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import ibis

from cdcpipe.verify.cut import StateRead
from cdcpipe.verify.engine import Engine
from cdcpipe.verify.evidence import Evidence, LedgerLike
from cdcpipe.verify.level import Level
from cdcpipe.verify.outcome import Report, VerifiedThrough
from cdcpipe.verify.tables import ARCHIVE, CHANGE, Expr, bit_xor, digest_key, saved, toast
from cdcpipe.verify.verdict import CheckResult, Image, Verdict, Witness

__all__ = ["compare_state", "divergences", "folded", "ranges", "visible"]

_STATE: Final = {"table": "string", "key": "binary", "after": "binary"}
_RANGE_BITS: Final = 12

STATE: Final = ibis.table(_STATE, name="state")
CUT: Final = ibis.table({"xmin": "int64", "xmax": "int64", "cut_lsn": "int64"}, name="cut_snapshot")
IN_PROGRESS: Final = ibis.table({"xid": "int64"}, name="cut_in_progress")
ASKED: Final = ibis.table({"table": "string"}, name="cut_tables")


def visible() -> Expr:
    """Events of the archive whose transaction is visible in the snapshot, of the tables that are compared."""
    t = ARCHIVE.semi_join(ASKED, "table").cross_join(CUT)
    running = IN_PROGRESS.select(running_xid="xid")
    t = t.left_join(running, t["xid"] == running["running_xid"])
    seen = (t["xid"] < t["xmin"]) | ((t["xid"] < t["xmax"]) & t["running_xid"].isnull())
    # A row that was read by a snapshot has no transaction of its own.
    read = (t["op"] == "r") & ~(t["lsn"] > t["cut_lsn"]).fill_null(False)
    return t.filter(ibis.cases((t["op"] == "r", read), else_=seen).fill_null(False))


def folded() -> Expr:
    """What the archive says the tables hold: the last event of each key, unless that deleted it."""
    t = visible()
    emptied = t.filter(t["op"] == "t").group_by(e_table=ibis._["table"]).agg(emptied_lsn=ibis._["lsn"].max())
    t = t.filter(t["key"].notnull(), t["op"].isin(("c", "u", "d", "r")))
    # Null has no place in argmax: an absent image is an empty one.
    nothing = ibis.literal(b"", "binary")
    t = t.mutate(image=ibis.coalesce(t["after"], nothing), hole=toast(t["unknown"]))
    last = t.group_by("table", "key").agg(
        **{
            name: t[name].argmax(t["offset"])
            for name in ("op", "lsn", "image", "hole", "xid", "topic", "partition", "object", "committed_at")
        },
        offset=t["offset"].max(),
    )
    last = last.left_join(emptied, last["table"] == emptied["e_table"])
    gone = (last["op"] == "d") | (last["lsn"] < last["emptied_lsn"]).fill_null(False)
    return last.filter(~gone).drop("e_table", "emptied_lsn")


def _range(t: Expr) -> Expr:
    return digest_key(t["table"], t["key"]) >> (64 - _RANGE_BITS)


def ranges() -> Expr:
    """Ranges of keys (by hash) in which table and archive differ, or of which the archive doesn't know a value."""

    def reduced(t: Expr, image: str) -> Expr:
        t = t.mutate(part=_range(t), row=digest_key(t["key"].cast("string"), t[image]))
        return t.group_by("table", "part").agg(n=t.count(), x=bit_xor(t["row"]))

    both = reduced(STATE, "after").outer_join(reduced(saved("folded", folded), "image"), ["table", "part"])
    same = both["n"].identical_to(both["n_right"]) & both["x"].identical_to(both["x_right"])
    both = both.filter(~same)
    return both.select(
        table=ibis.coalesce(both["table"], both["table_right"]), part=ibis.coalesce(both["part"], both["part_right"])
    )


def divergences() -> Expr:
    """Keys at which they differ: `kind` is `missing` (in the archive), `extra`, `differs`, `unresolved`."""
    parts = saved("ranges", ranges)
    s = STATE.mutate(part=_range(STATE)).semi_join(parts, ["table", "part"])
    s = s.select(s_table="table", s_key="key", expected_after="after")
    f = saved("folded", folded)
    f = f.mutate(part=_range(f)).semi_join(parts, ["table", "part"]).drop("part")
    both = s.join(f, [s["s_table"] == f["table"], s["s_key"] == f["key"]], how="outer")
    kind = ibis.cases(
        (both["key"].isnull(), "missing"),
        (both["s_key"].isnull(), "extra"),
        (both["hole"].fill_null(False), "unresolved"),
        else_="differs",
    )
    both = both.mutate(kind=kind)
    both = both.filter((both["kind"] != "differs") | (both["expected_after"] != both["image"]))
    return both.mutate(
        table=ibis.coalesce(both["table"], both["s_table"]), key=ibis.coalesce(both["key"], both["s_key"])
    )


def by_kind() -> Expr:
    """Divergences counted."""
    t = saved("divergences", divergences)
    return t.group_by("table", "kind").agg(n=t.count()).order_by("table", "kind")


def telling_rows() -> Expr:
    """A few divergences to show."""
    t = saved("divergences", divergences)
    return t.filter(t["kind"] != "unresolved").order_by("table", "key").limit(20)


def foldable() -> Expr:
    """Events of the archive by table."""
    t = ARCHIVE.semi_join(ASKED, "table")
    return t.group_by("table").agg(n=t.count())


_NOTES: Final = {
    "missing": "in the table, not in the archive",
    "extra": "in the archive, not in the table",
    "differs": "another row in the archive",
}


def compare_state(
    state: StateRead,
    archive: LedgerLike,
    *,
    reached: bool = True,
    waiting_for: str = "",
    memory_limit: str = "1500MB",
    threads: int = 2,
    temp_folder: Path | None = None,
) -> Report:
    """Fold `archive` up to the cut and compare it with `state`. One `cut-divergence` result a table.

    `reached` is False when the archive had not settled: what it lacks is then no divergence, and the answer is open.
    """
    start = time.perf_counter()
    evidence = Evidence.of(archive, "archive")
    assert evidence is not None
    kinds: dict[str, dict[str, int]] = {}
    telling: list[dict[str, Any]] = []
    with Engine(memory_limit=memory_limit, threads=threads, temp_folder=temp_folder) as engine:
        engine.define("archive", CHANGE, evidence.changes)
        engine.define("state", _STATE, state.files)
        snapshot = state.snapshot
        engine.define_rows("cut_snapshot", _kinds(CUT), [(snapshot.xmin, snapshot.xmax, snapshot.lsn)])
        engine.define_rows("cut_in_progress", _kinds(IN_PROGRESS), [(xid,) for xid in snapshot.in_progress])
        engine.define_rows("cut_tables", _kinds(ASKED), [(name,) for name in state.tables])
        events = {row["table"]: row["n"] for row in engine.rows(foldable)}
        engine.save("folded", folded)
        if engine.save("ranges", ranges):
            engine.save("divergences", divergences)
            for row in engine.rows(by_kind):
                kinds.setdefault(row["table"], {})[row["kind"]] = row["n"]
            telling = engine.rows(telling_rows)
    doubts = [*evidence.reasons]
    if not reached:
        doubts.append(f"the pipeline had not settled: still waiting for {waiting_for or 'the watermark'}")
    results = [_result(name, state, events.get(name, 0), kinds.get(name, {}), telling, doubts) for name in state.tables]
    results += [_refused(name, why) for name, why in state.refused.items()]
    report = Report(
        mode="state",
        level=Level.EXACTLY_ONCE,
        results=tuple(results),
        notes=(*state.unsupported, *(f"{name} was not compared: {why}" for name, why in state.refused.items())),
        made_at=datetime.now(UTC),
        seconds=state.seconds + time.perf_counter() - start,
        facts={
            "rows": sum(state.rows.values()),
            "tables": dict(state.rows),
            "snapshot": f"{snapshot.xmin}:{snapshot.xmax}:{','.join(map(str, snapshot.in_progress))}",
            "read_seconds": round(state.seconds, 3),
            "compare_seconds": round(time.perf_counter() - start, 3),
        },
    )
    if report.verdict is Verdict.PASS:
        through = VerifiedThrough(snapshot.xmax - 1, snapshot.lsn, snapshot.at)
        report = replace(report, verified_through=through)
    return report


def _kinds(table: Expr) -> dict[str, str]:
    return {name: str(kind) for name, kind in table.schema().items()}


_CLAIM = "The archive of {table}, folded up to the cut, has exactly the rows that the table had then."
_NOT_PROVEN = (
    "That every intermediate change was archived (that is for the events mode), and columns without a canonical form."
)


def _result(
    name: str,
    state: StateRead,
    events: int,
    kinds: Mapping[str, int],
    telling: Sequence[Mapping[str, Any]],
    doubts: Sequence[str],
) -> CheckResult:
    found = sum(n for kind, n in kinds.items() if kind != "unresolved")
    unresolved = kinds.get("unresolved", 0)
    verdict, reason = Verdict.PASS, None
    if name in state.rewritten:
        verdict = Verdict.INCONCLUSIVE
        reason = f"{name} was truncated or rewritten after the snapshot, before it was read; take another cut"
    elif doubts:
        verdict, reason = Verdict.INCONCLUSIVE, "; ".join(doubts)
    elif found:
        verdict = Verdict.FAIL
    elif not events and not state.rows[name]:
        verdict, reason = Verdict.INCONCLUSIVE, "the table is empty and so is its archive"
    elif unresolved:
        verdict = Verdict.INCONCLUSIVE
        reason = f"the last event of {unresolved} rows holds an unchanged TOAST value; REPLICA IDENTITY FULL avoids it"
    return CheckResult(
        name="cut-divergence",
        group="state",
        claim=_CLAIM.format(table=name),
        not_proven=_NOT_PROVEN,
        verdict=verdict,
        found=found,
        looked_at=state.rows[name],
        counts={"rows": state.rows[name], "events": events, **kinds},
        witnesses=tuple(_witness(row) for row in telling if row["table"] == name),
        reason=reason,
    )


def _refused(name: str, why: str) -> CheckResult:
    return CheckResult(
        "cut-divergence",
        "state",
        _CLAIM.format(table=name),
        _NOT_PROVEN,
        Verdict.INCONCLUSIVE,
        applies=False,
        reason=why,
    )


def _witness(row: Mapping[str, Any]) -> Witness:
    expected, found = row["expected_after"], row["image"]
    committed = row["committed_at"]
    return Witness(
        note=_NOTES[row["kind"]],
        table=row["table"],
        key=bytes(row["key"]).decode(errors="backslashreplace"),
        op=row["op"],
        xid=row["xid"],
        lsn=row["lsn"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        object=row["object"],
        committed_at=None if committed is None else datetime.fromtimestamp(committed / 1e6, UTC),
        expected=None if expected is None else {"after": Image(bytes(expected).hex())},
        found=None if not found else {"after": Image(bytes(found).hex())},
    )
