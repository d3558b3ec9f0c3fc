"""wal against log: which changes are missing, extra, different, repeated.

Two steps, so that a good run costs two scans. First both ledgers are cut into blocks of transactions, and each block is
reduced to a count and an exclusive or of 64-bit digests. Only blocks that differ are then joined change by change. (A
difference escapes with probability 2^-64.)

Where there is no log ledger, the archive takes its place: the view `log` then shows the archive.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import ibis

from cdcpipe.verify.tables import (
    BOUNDS,
    FINDINGS,
    LOG,
    SKIPPED,
    TRANSACTIONS,
    WAL,
    Expr,
    bit_xor,
    change_digest,
    finding,
    saved,
    toast,
)

__all__ = [
    "RECORD",
    "SIDE",
    "differing",
    "emptied",
    "expected",
    "first_streamed",
    "log_transactions",
    "missing",
    "orphans",
    "pairs",
    "phantoms",
    "repeats",
    "set_aside",
    "snapshots",
    "source_blocks",
    "streamed",
    "torn",
    "transactions",
    "wal_repeats",
    "wal_transactions",
]

_BLOCK_BITS: Final = 4
"""Small blocks: damage that is spread thinly must not make all of them differ."""
RECORD: Final = ("topic", "partition", "offset")
SIDE: Final = (
    *("table", "xid", "seq", "commit_lsn", "lsn", "op", "key", "before", "after"),
    *("topic", "partition", "offset", "object", "committed_at"),
)


def streamed(t: Expr) -> Expr:
    """Changes with an identity: not snapshot rows, not messages."""
    return t.filter(t["op"].isin(("c", "u", "d", "t")), t["xid"].notnull(), t["seq"].notnull())


def expected() -> Expr:
    """What the wal ledger says the log must have."""
    return streamed(WAL).anti_join(SKIPPED, "op")


def source_blocks() -> Expr:
    """Blocks of transactions in which the ledgers differ."""

    def blocks(t: Expr) -> Expr:
        return t.group_by(block=t["xid"] >> _BLOCK_BITS).agg(n=t.count(), x=bit_xor(change_digest(t)))

    both = blocks(expected()).outer_join(blocks(streamed(LOG)), "block")
    same = both["n"].identical_to(both["n_right"]) & both["x"].identical_to(both["x_right"])
    return both.filter(~same).select(block=ibis.coalesce(both["block"], both["block_right"]))


def _in_differing_blocks(t: Expr) -> Expr:
    return t.mutate(block=t["xid"] >> _BLOCK_BITS).semi_join(saved("source_blocks", source_blocks), "block")


def pairs() -> Expr:
    """Identities at which the ledgers differ: `kind` is `missing` (in the log), `extra`, `differs`."""

    def side(t: Expr, prefix: str) -> Expr:
        t = _in_differing_blocks(t)
        columns = {f"{prefix}_{name}": t[name] for name in SIDE}
        return t.select(**columns, **{f"{prefix}_toast": toast(t["unknown"]), f"{prefix}_digest": change_digest(t)})

    w, l = side(expected(), "w"), side(streamed(LOG), "l")  # noqa: E741
    both = w.join(l, (w["w_xid"] == l["l_xid"]) & (w["w_seq"] == l["l_seq"]), how="outer")
    both = both.filter(~both["w_digest"].identical_to(both["l_digest"]))
    kind = ibis.cases((both["l_xid"].isnull(), "missing"), (both["w_xid"].isnull(), "extra"), else_="differs")
    return both.mutate(kind=kind)


def _repeats(t: Expr) -> Expr:
    order = ibis.window(group_by=[t["xid"], t["seq"]], order_by=[t[name] for name in RECORD])
    t = t.mutate(
        nth=ibis.row_number().over(order),
        digest=change_digest(t),
        first_digest=change_digest(t).first().over(order),
        same_record=(
            (t["offset"] == t["offset"].lag().over(order))
            & (t["partition"] == t["partition"].lag().over(order))
            & (t["topic"] == t["topic"].lag().over(order))
        ),
    )
    # The same record twice is an archive's `duplicate-row`, not a change that the source sent twice.
    t = t.filter(t["nth"] > 0, ~t["same_record"].fill_null(False))
    return t.mutate(identical=t["digest"] == t["first_digest"]).select(*SIDE, "identical")


def repeats(whole: bool) -> Expr:
    """Second and later records of one identity. `whole`: look everywhere, since there is no wal ledger."""
    return _repeats(streamed(LOG) if whole else _in_differing_blocks(streamed(LOG)))


def wal_repeats() -> Expr:
    """Identities that the wal ledger has twice: it is then no witness."""
    t = _in_differing_blocks(expected())
    counted = t.group_by("xid", "seq").agg(n=t.count())
    return counted.filter(counted["n"] > 1)


def set_aside(has_wal: bool) -> Expr:
    """Records that are judged already, and would upset the checks of order: repetitions, phantoms."""
    again = saved("repeats", repeats, not has_wal).select(*RECORD)
    if not has_wal:
        return again.distinct()
    extra = saved("pairs", pairs)
    extra = extra.filter(extra["kind"] == "extra").select(**{name: extra[f"l_{name}"] for name in RECORD})
    return ibis.union(again, extra).distinct()


def wal_transactions() -> Expr:
    """Transactions as PostgreSQL committed them."""
    t = expected()
    return t.group_by("xid").agg(commit_lsn=t["commit_lsn"].max(), n=t.count(), committed_at=t["committed_at"].max())


def log_transactions() -> Expr:
    """Transactions as far as the log shows them, without a wal ledger."""
    t = streamed(LOG).anti_join(saved("set_aside", set_aside, False), RECORD)
    return t.group_by("xid").agg(commit_lsn=t["commit_lsn"].max(), n=t.count(), committed_at=t["committed_at"].max())


@cache
def transactions() -> Expr:
    """The saved one of the two above; they have the same columns."""
    return saved("tx", wal_transactions)


def snapshots() -> Expr:
    """One row: the positions of the first and the last snapshot (LSN of the rows that were read), and their rows.

    Of all tables together: the snapshot of an empty table leaves no row.
    """
    t = LOG.filter(LOG["op"] == "r")
    return t.agg(first_snapshot=t["lsn"].min(), last_snapshot=t["lsn"].max(), n=t.count())


def first_streamed() -> Expr:
    """One row: commit LSN of the first change after the first snapshot that is in the log."""
    t = streamed(LOG).select("xid").distinct().join(transactions(), "xid").cross_join(saved("snapshots", snapshots))
    t = t.filter(t["commit_lsn"] > t["first_snapshot"])
    return t.agg(first_lsn=t["commit_lsn"].min())


def _missing_rows() -> Expr:
    t = saved("pairs", pairs)
    t = t.filter(t["kind"] == "missing")
    return t.select(**{name: t[f"w_{name}"] for name in SIDE})


def orphans() -> Expr:
    """Missing halves of a primary key change whose other half is there.

    PostgreSQL logs one update; a ledger has a delete and a create of the same LSN, one after the other.
    """
    m = _missing_rows()
    m = m.filter(m["op"].isin(("c", "d")))
    m = m.select(
        "xid",
        "seq",
        "table",
        "lsn",
        other_seq=ibis.cases((m["op"] == "d", m["seq"] + 1), else_=m["seq"] - 1),
        other_op=ibis.cases((m["op"] == "d", "c"), else_="d"),
    )
    w = WAL.select(
        other_xid=WAL["xid"],
        other_seq=WAL["seq"],
        other_op=WAL["op"],
        other_table=WAL["table"],
        other_lsn=WAL["lsn"],
        moved_key=WAL["key"],
    )
    found = m.join(
        w,
        [
            m["xid"] == w["other_xid"],
            m["other_seq"] == w["other_seq"],
            m["other_op"] == w["other_op"],
            m["table"] == w["other_table"],
            m["lsn"] == w["other_lsn"],
        ],
    )
    gone = _missing_rows().select(other_xid="xid", other_seq="seq")
    return found.anti_join(gone, ["other_xid", "other_seq"]).select("xid", "seq")


def missing() -> Expr:
    """Findings of what PostgreSQL committed and the log lacks.

    Also `unsettled` (beyond the watermark) and `covered` (the snapshot had it), which are none.
    """
    m = _missing_rows().cross_join(BOUNDS).cross_join(saved("first_streamed", first_streamed))
    m = m.cross_join(saved("snapshots", snapshots))
    half = saved("orphans", orphans).mutate(orphan=ibis.literal(True))
    m = m.left_join(half, ["xid", "seq"])
    # A snapshot that was begun again, before anything was streamed, covers what its later beginning saw.
    covered = (m["commit_lsn"] <= m["first_snapshot"]) | (
        (m["commit_lsn"] <= m["last_snapshot"]) & (m["commit_lsn"] < m["first_lsn"])
    )
    between = (m["commit_lsn"] > m["last_snapshot"]) & (m["commit_lsn"] < m["first_lsn"])
    name = ibis.cases(
        ((m["commit_lsn"] > m["through"]).fill_null(False), "unsettled"),
        (covered.fill_null(False), "covered"),
        (m["orphan"].fill_null(False), "pk-change-orphan"),
        (between.fill_null(False), "handoff-gap"),
        else_="lost-change",
    )
    return finding(m, name, place="source", expected_before=m["before"], expected_after=m["after"])


def phantoms() -> Expr:
    """Findings of what the log has and PostgreSQL did not commit; `outside` lies beyond what the wal ledger covers."""
    t = saved("pairs", pairs)
    t = t.filter(t["kind"] == "extra")
    t = t.select(**{name: t[f"l_{name}"] for name in SIDE}).cross_join(BOUNDS)
    at = ibis.coalesce(t["commit_lsn"], t["lsn"])
    outside = (at < t["begin_lsn"]).fill_null(False) | (at >= t["end_lsn"]).fill_null(False)
    outside = outside | (at > t["through"]).fill_null(False)
    name = ibis.cases((outside, "outside"), else_="phantom-change")
    return finding(t, name, place="source", found_before=t["before"], found_after=t["after"])


def differing() -> Expr:
    """Findings of changes whose key, operation or images differ between wal and log."""
    t = saved("pairs", pairs)
    t = t.filter(t["kind"] == "differs")
    again = saved("repeats", repeats, False).select(l_topic="topic", l_partition="partition", l_offset="offset")
    t = t.anti_join(again, ["l_topic", "l_partition", "l_offset"])
    name = ibis.cases((t["w_toast"] != t["l_toast"], "toast-hole"), else_="value-drift")
    values = {name_: t[f"w_{name_}"] for name_ in ("table", "xid", "seq", "commit_lsn", "lsn", "op", "key")}
    values |= {name_: t[f"l_{name_}"] for name_ in (*RECORD, "object")}
    note = ibis.cases(
        (t["w_table"] != t["l_table"], "filed under another table"),
        (~t["w_key"].identical_to(t["l_key"]), "filed under another key"),
        (t["w_op"] != t["l_op"], "another operation"),
        (~t["w_after"].identical_to(t["l_after"]), "another row image"),
        else_="another old row image",
    )
    return finding(
        t,
        name,
        place="source",
        note=note,
        committed_at=t["w_committed_at"],
        expected_before=t["w_before"],
        expected_after=t["w_after"],
        found_before=t["l_before"],
        found_after=t["l_after"],
        **values,
    )


def torn(has_wal: bool) -> Expr:
    """Transactions of which a part is there: by count against the source's, or against their END record."""
    ends = TRANSACTIONS.filter(TRANSACTIONS["status"] == "END")
    known = ends.agg(ends_known=ends.count() > 0)
    ends = ends.group_by(e_xid=ends["xid"]).agg(said=ends["event_count"].max())
    own = FINDINGS.filter(FINDINGS["place"] == "source")
    lost = own.filter(own["name"].isin(("lost-change", "pk-change-orphan", "handoff-gap")))
    lost = lost.group_by(l_xid=lost["xid"]).agg(lost=lost.count(), lost_cause=lost["name"].max())
    extra = own.filter(own["name"] == "phantom-change")
    extra = extra.group_by(p_xid=extra["xid"]).agg(extra=extra.count())
    aside = own.filter(own["name"].isin(("unsettled", "covered", "outside"))).select(a_xid="xid").distinct()
    t = transactions()
    t = t.anti_join(aside, t["xid"] == aside["a_xid"]).cross_join(known).cross_join(BOUNDS)
    t = t.cross_join(saved("snapshots", snapshots))
    t = t.left_join(ends, t["xid"] == ends["e_xid"])
    t = t.left_join(lost, t["xid"] == lost["l_xid"])
    t = t.left_join(extra, t["xid"] == extra["p_xid"])
    t = t.filter(
        ~(t["commit_lsn"] > t["through"]).fill_null(False), ~(t["commit_lsn"] <= t["first_snapshot"]).fill_null(False)
    )
    gone = t["lost"].fill_null(0)
    wrong = t["said"].notnull() & (t["said"] != t["n"])
    no_end = ibis.literal(has_wal) & t["ends_known"] & t["said"].isnull()
    t = t.filter((gone < t["n"]) & ((gone > 0) | wrong | no_end))
    cause = ibis.cases(
        (t["lost"] > 0, t["lost_cause"]),
        (t["extra"] > 0, ibis.literal("phantom-change")),
        else_=ibis.null("string"),
    )
    gone = t["lost"].fill_null(0)
    note = ibis.cases(
        (gone > 0, gone.cast("string") + " of " + t["n"].cast("string") + " changes are not in the log"),
        (t["said"].isnull(), ibis.literal("its changes are in the log, its END record is not")),
        else_=ibis.literal("its END record says ")
        + t["said"].cast("string")
        + " changes, there are "
        + t["n"].cast("string"),
    )
    return finding(t, "torn-transaction", cause=cause, note=note)


def emptied() -> Expr:
    """Without a wal ledger: transactions with an END record that counts changes, and none in the log."""
    t = TRANSACTIONS.filter(TRANSACTIONS["status"] == "END", TRANSACTIONS["event_count"] > 0)
    t = t.anti_join(transactions(), "xid")
    return finding(t, "torn-transaction", note="its END record counts changes, and none is in the log")
