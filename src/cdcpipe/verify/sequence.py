"""The log read in its own order: by partition, by key.

The order that must hold is the source's: commit LSN, then place in the transaction. Within a partition it must never
go back. Within a key, each change must continue where the one before ended: `before` is the previous `after`.
Repetitions and phantoms are set aside first: they have names of their own.
"""

from __future__ import annotations

import ibis

from cdcpipe.verify.source import RECORD, pairs, repeats, set_aside, snapshots, streamed, transactions
from cdcpipe.verify.tables import FINDINGS, LOG, TABLES, WAL, Expr, digest_key, digest_record, finding, saved, toast

__all__ = [
    "chain",
    "chain_details",
    "chain_findings",
    "full_tables",
    "late",
    "late_findings",
    "order_breaks",
    "repeat_findings",
    "repeat_tails",
    "snapshot_findings",
    "truncates",
]

_CHANGE = ("table", "key", "op", "xid", "seq", "commit_lsn", "lsn", "object", "committed_at")


def _kept(t: Expr, has_wal: bool) -> Expr:
    return t.anti_join(saved("set_aside", set_aside, has_wal), RECORD)


def _placed(has_wal: bool) -> Expr:
    """Streamed changes with their commit LSN as the source gives it."""
    t = _kept(streamed(LOG), has_wal)
    tx = transactions().select("xid", at="commit_lsn")
    t = t.join(tx, "xid").filter(lambda t: t["at"].notnull())
    return t.select(*RECORD, "table", "key", "op", "xid", "seq", "lsn", "object", "committed_at", "at")


def order_breaks(has_wal: bool) -> Expr:
    """Partitions in which the source's order goes back somewhere."""
    t = _placed(has_wal).select(*RECORD, "at", "seq")
    row = ibis.window(group_by=[t["topic"], t["partition"]], order_by=[t["offset"]])
    t = t.mutate(at_before=t["at"].lag().over(row), seq_before=t["seq"].lag().over(row))
    back = (t["at"] < t["at_before"]) | ((t["at"] == t["at_before"]) & (t["seq"] < t["seq_before"]))
    return t.filter(back).group_by("topic", "partition").agg(n=lambda t: t.count())


def late(has_wal: bool) -> Expr:
    """Changes that come after a later one of their partition. `high` is the highest commit LSN before them."""
    t = _placed(has_wal).semi_join(saved("order_breaks", order_breaks, has_wal), ["topic", "partition"])
    before = ibis.window(group_by=[t["topic"], t["partition"]], order_by=[t["offset"]], rows=(None, -1))
    within = ibis.window(
        group_by=[t["topic"], t["partition"], t["xid"]],
        order_by=[t["offset"]],
        rows=(None, -1),
    )
    t = t.mutate(high=t["at"].max().over(before), high_seq=t["seq"].max().over(within))
    return t.filter((t["at"] < t["high"]) | (t["seq"] < t["high_seq"]))


def _overtaken_keys(has_wal: bool) -> Expr:
    """Late changes with a later one of the same key before them, and the offset of the first such one."""
    l = saved("late", late, has_wal)  # noqa: E741
    p = _placed(has_wal).semi_join(l.filter(l["key"].notnull()), ["table", "key"])
    p = p.select(
        p_table="table",
        p_key="key",
        p_topic="topic",
        p_partition="partition",
        p_offset="offset",
        p_at="at",
        p_seq="seq",
    )
    both = l.join(
        p,
        [
            l["table"] == p["p_table"],
            l["key"] == p["p_key"],
            l["topic"] == p["p_topic"],
            l["partition"] == p["p_partition"],
            p["p_offset"] < l["offset"],
            (p["p_at"] > l["at"]) | ((p["p_at"] == l["at"]) & (p["p_seq"] > l["seq"])),
        ],
    )
    return both.group_by(*RECORD, "high").agg(ahead=both["p_offset"].min())


def late_findings(has_wal: bool) -> Expr:
    """`key-inversion` where a key is overtaken, else `commit-inversion`; that one is a consequence beside the other."""
    l = saved("late", late, has_wal)  # noqa: E741
    k = _overtaken_keys(has_wal)
    own = k.select(*RECORD, key_late=ibis.literal(True))
    l = l.left_join(own, list(RECORD)).drop("topic_right", "partition_right", "offset_right")  # noqa: E741
    k = k.select(k_topic="topic", k_partition="partition", k_offset="offset", k_ahead="ahead", k_high="high")
    beside = l.join(
        k,
        [
            l["topic"] == k["k_topic"],
            l["partition"] == k["k_partition"],
            l["offset"] >= k["k_ahead"],
            (l["offset"] <= k["k_offset"]) | (l["high"] == k["k_high"]),
        ],
    )
    beside = beside.select(*RECORD).distinct().mutate(beside=ibis.literal(True))
    l = l.left_join(beside, list(RECORD))  # noqa: E741
    is_key = l["key_late"].fill_null(False)
    explained = ~is_key & l["beside"].fill_null(False)
    return finding(
        l,
        ibis.cases((is_key, "key-inversion"), else_="commit-inversion"),
        cause=ibis.cases((explained, "key-inversion"), else_=ibis.null("string")),
        commit_lsn=l["at"],
    )


# --- repetitions -------------------------------------------------------------


def repeat_tails() -> Expr:
    """Per key that has a repetition: the change that is last in the log, and the newest one of the source."""
    again = saved("repeats", repeats, False)
    t = streamed(LOG).semi_join(again.filter(again["key"].notnull()), ["table", "key"])
    tx = transactions().select(tx_xid="xid", at="commit_lsn")
    t = t.left_join(tx, t["xid"] == tx["tx_xid"])
    by_offset = ibis.window(group_by=[t["table"], t["key"]], order_by=[t["offset"].desc()])
    newest = ibis.window(group_by=[t["table"], t["key"]], order_by=[t["at"].desc(), t["seq"].desc(), t["offset"].asc()])
    t = t.mutate(from_end=ibis.row_number().over(by_offset), from_newest=ibis.row_number().over(newest))
    last = t.filter(t["from_end"] == 0).select(
        "table", "key", last_offset="offset", last_at="at", last_seq="seq", last_op="op", last_after="after"
    )
    top = t.filter(t["from_newest"] == 0).select(
        "table", "key", top_at="at", top_seq="seq", top_op="op", top_after="after"
    )
    return last.join(top, ["table", "key"])


def repeat_findings(has_wal: bool) -> Expr:
    """`duplicate-change`; where the repetition is what remains of its key, by `resurrection` or `stale-overwrite`."""
    again = saved("repeats", repeats, False)
    t = again.left_join(saved("repeat_tails", repeat_tails), ["table", "key"]).drop("table_right", "key_right")
    older = (t["last_at"] < t["top_at"]) | ((t["last_at"] == t["top_at"]) & (t["last_seq"] < t["top_seq"]))
    remains = (t["offset"] == t["last_offset"]) & older & ~t["last_after"].identical_to(t["top_after"])
    remains = remains.fill_null(False)
    name = ibis.cases(
        (remains & (t["top_op"] == "d"), "resurrection"),
        (remains, "stale-overwrite"),
        else_="duplicate-change",
    )
    identical = t["identical"]
    if has_wal:
        wrong = saved("pairs", pairs)
        wrong = wrong.filter(wrong["kind"] == "differs")
        wrong = wrong.select(wrong_topic="l_topic", wrong_partition="l_partition", wrong_offset="l_offset")
        t = t.left_join(
            wrong,
            [
                t["topic"] == wrong["wrong_topic"],
                t["partition"] == wrong["wrong_partition"],
                t["offset"] == wrong["wrong_offset"],
            ],
        )
        identical = t["wrong_offset"].isnull()
    repeat = ibis.cases(
        (remains, ibis.null("string")),
        (identical, ibis.literal("identical")),
        else_=ibis.literal("differs"),
    )
    images = {"expected_after": t["top_after"], "found_before": t["before"], "found_after": t["after"]}
    named = finding(t, name, repeat=repeat, **images)
    kind = ibis.cases((identical, ibis.literal("identical")), else_="differs")
    also = finding(t.filter(remains), "duplicate-change", cause=name, repeat=kind, **images)
    return ibis.union(named, also)


# --- chains of a key ---------------------------------------------------------


def full_tables() -> Expr:
    """Which tables have the whole old row in `before`: as the catalogue says, else as their updates show."""
    u = LOG.filter(LOG["op"] == "u")
    seen = u.group_by("table").agg(bare=u["before"].isnull().sum())
    every = LOG.select("table").distinct().left_join(seen, "table").drop("table_right")
    every = every.left_join(TABLES, "table")
    return every.select(table=every["table"], full=ibis.coalesce(every["full"], (every["bare"] == 0).fill_null(False)))


_OPS = {"c": 1, "u": 2, "d": 3, "r": 4}


def chain(has_wal: bool) -> Expr:
    """Changes that don't continue their key's previous one: `flag` says how.

    It sorts all changes by key, so it carries as little as it can: hashes for keys, images and places.
    """
    t = LOG.filter(LOG["key"].notnull(), LOG["op"].isin(tuple(_OPS)))
    t = _kept(t, has_wal)
    t = t.join(saved("full_tables", full_tables), "table")
    nothing = ibis.null("int64")
    hole = toast(t["unknown"])
    t = t.select(
        "offset",
        "lsn",
        place=_place(t),
        what=ibis.cases(*((t["op"] == op, number) for op, number in _OPS.items()), else_=0).cast("int8"),
        k=digest_key(t["table"], t["key"]),
        claim=ibis.cases((t["full"] & t["before"].notnull() & ~hole, digest_key("", t["before"])), else_=nothing),
        state=ibis.cases((hole, nothing), else_=digest_key("", t["after"])),
    )
    row = ibis.window(group_by=[t["k"]], order_by=[t["offset"], t["place"]])
    t = t.mutate(**{f"prev_{name}": t[name].lag().over(row) for name in ("what", "place", "offset", "lsn", "state")})
    t = t.filter(t["prev_what"].notnull())
    created, deleted, read = _OPS["c"], _OPS["d"], _OPS["r"]
    changes = t["what"].isin((_OPS["u"], deleted))
    creates_existing = (t["what"] == created) & (t["prev_what"] != deleted)
    changes_absent = changes & (t["prev_what"] == deleted)
    other = changes & (t["prev_what"] != deleted) & (t["claim"] != t["prev_state"]).fill_null(False)
    not_continued = creates_existing | changes_absent | other
    overlap = (t["lsn"] <= t["prev_lsn"]).fill_null(False)
    flag = ibis.cases(
        (t["place"] != t["prev_place"], "split"),
        (t["what"] == read, "reread"),
        ((t["prev_what"] == read) & (not_continued | overlap), "handoff"),
        ((t["prev_what"] != read) & not_continued, "gap"),
        else_=ibis.null("string"),
    )
    t = t.mutate(flag=flag, broken=not_continued)
    return t.filter(t["flag"].notnull()).select("place", "offset", "flag", "broken", "prev_place", "prev_offset")


def _place(t: Expr) -> Expr:
    """A number for topic and partition."""
    return digest_record(t["topic"], t["partition"], ibis.null("int64"), ibis.null("int64"))


def chain_details(has_wal: bool) -> Expr:
    """The flagged changes with what a finding needs of them and of the one before."""
    f = saved("chain", chain, has_wal)
    now = LOG.select(*RECORD, *_CHANGE, "before", "after", place=_place(LOG))
    then = LOG.select(
        prev_place=_place(LOG),
        prev_offset=LOG["offset"],
        **{f"prev_{name}": LOG[name] for name in ("xid", "seq", "lsn", "op", "before", "after", "key", "table")},
    )
    f = f.join(now, ["place", "offset"]).join(then, ["prev_place", "prev_offset"])
    tx = transactions().select(tx_xid="xid", at="commit_lsn")
    prev_tx = transactions().select(prev_tx="xid", prev_at="commit_lsn")
    f = f.left_join(tx, f["xid"] == tx["tx_xid"])
    f = f.left_join(prev_tx, f["prev_xid"] == prev_tx["prev_tx"])
    # Two keys with one hash are no chain.
    f = f.filter(f["key"] == f["prev_key"], f["table"] == f["prev_table"])
    return f.mutate(
        at=ibis.coalesce(f["at"], f["commit_lsn"]), prev_at=ibis.coalesce(f["prev_at"], f["prev_lsn"])
    ).drop("tx_xid", "prev_tx", "place", "prev_place", "prev_table")


def truncates() -> Expr:
    """Where tables were emptied, by commit LSN."""
    t = streamed(LOG)
    t = t.filter(t["op"] == "t")
    tx = transactions().select(tx_xid="xid", at="commit_lsn")
    t = t.left_join(tx, t["xid"] == tx["tx_xid"])
    return t.select(t_table="table", t_at=ibis.coalesce(t["at"], t["commit_lsn"], t["lsn"]), t_xid="xid", t_seq="seq")


def _emptied_between(f: Expr) -> Expr:
    """Records of flagged changes before which their table was truncated, after the change before."""
    # A truncate between the two ends the old chain. Between: by commit, or by place within one transaction.
    cuts = saved("truncates", truncates)
    emptied = f.join(
        cuts,
        [
            f["table"] == cuts["t_table"],
            (cuts["t_at"] > f["prev_at"])
            | ((cuts["t_xid"] == f["prev_xid"]) & (cuts["t_seq"] > f["prev_seq"]))
            | f["prev_at"].isnull(),
            (cuts["t_at"] < ibis.coalesce(f["at"], f["lsn"]))
            | ((cuts["t_xid"] == f["xid"]) & (cuts["t_seq"] < f["seq"])),
        ],
    )
    return emptied.select(*RECORD).distinct()


def _made(t: Expr, image: str) -> list[Expr]:
    """Joins rows to the changes of the WAL that gave their key the state `image`."""
    return [t["table"] == WAL["table"], t["key"] == WAL["key"], t[image] == WAL["after"]]


def _read_late(f: Expr) -> Expr:
    """First streamed changes whose snapshot row shows what they or a later change of the key made.

    Such a row was read later than the position that its snapshot names: nothing is missing, it is streamed again.
    """
    own = f.filter(f["flag"] == "handoff", f["prev_after"].notnull())
    own = own.semi_join(WAL, [*_made(own, "prev_after"), own["at"] <= WAL["commit_lsn"]])
    return own.select(**{f"late_{name}": name for name in RECORD}).distinct()


def chain_findings(has_wal: bool, resnapshots: bool) -> Expr:
    """`key-split`, `key-gap`, `handoff-gap`, `handoff-overlap`, `stale-overwrite`, `resurrection`.

    `resnapshots`: reading a table again is declared, so rows that are read again unchanged are no overlap, nor those
    that are read later than their snapshot's position, as one does that was interrupted and begins anew.
    """
    f = saved("chain_details", chain_details, has_wal)
    f = f.anti_join(_emptied_between(f), RECORD)
    read_late = ibis.literal(False)
    if has_wal:
        rows = _read_late(f)
        f = f.left_join(
            rows,
            [
                f["topic"] == rows["late_topic"],
                f["partition"] == rows["late_partition"],
                f["offset"] == rows["late_offset"],
            ],
        )
        read_late = f["late_offset"].notnull()
    same = f["after"].identical_to(f["prev_after"])
    seen_before = (ibis.coalesce(f["at"], f["lsn"]) <= f["prev_at"]).fill_null(False)
    read_again = f["flag"] == "reread"
    name = ibis.cases(
        (f["flag"] == "split", "key-split"),
        (f["flag"] == "gap", "key-gap"),
        # a snapshot row after a streamed change of the key
        (read_again & (f["prev_op"] != "r") & seen_before & (f["prev_op"] == "d"), "resurrection"),
        (read_again & (f["prev_op"] != "r") & seen_before & ~same, "stale-overwrite"),
        (read_again & ~same, "handoff-gap"),
        (read_again, "handoff-overlap"),
        # a streamed change after the snapshot row of the key
        (seen_before | read_late, "handoff-overlap"),
        else_="handoff-gap",
    )
    harmless = (name == "handoff-overlap") & (read_again | (read_late & ~seen_before))
    # A change whose commit is after the snapshot may lie before it in the WAL: no overlap, if it continues the row.
    f = f.mutate(name=name, harmless=harmless)
    if resnapshots:
        f = f.filter(~f["harmless"])
    f = f.filter(~((f["flag"] == "handoff") & (f["name"] == "handoff-gap") & ~f["broken"]))
    blamed = saved("blamed", blamed_keys, has_wal).select(b_table="table", b_key="key", b_cause="cause")
    f = f.left_join(blamed, [f["table"] == blamed["b_table"], f["key"] == blamed["b_key"]])
    torn = f.filter(f["flag"] == "split").select(s_table="table", s_key="key").distinct()
    torn = torn.mutate(is_split=ibis.literal(True))
    f = f.left_join(torn, [f["table"] == torn["s_table"], f["key"] == torn["s_key"]])
    cause = ibis.cases(
        ((f["flag"] != "split") & f["is_split"].fill_null(False), ibis.literal("key-split")),
        (f["name"].isin(("key-gap", "handoff-gap")), f["b_cause"]),
        else_=ibis.null("string"),
    )
    repeat = ibis.cases(
        (f["name"] != "handoff-overlap", ibis.null("string")),
        (f["harmless"] & same, "identical"),
        else_="differs",
    )
    return finding(
        f,
        f["name"],
        cause=cause,
        repeat=repeat,
        commit_lsn=f["at"],
        expected_before=f["prev_before"],
        expected_after=f["prev_after"],
        found_before=f["before"],
        found_after=f["after"],
    )


def snapshot_findings() -> Expr:
    """What was committed before the snapshot and never streamed must be in it: `handoff-gap`, or `resurrection`.

    Only keys of which the wal ledger knows a change from before; only where there was one snapshot.
    """
    before = FINDINGS.filter(FINDINGS["name"] == "covered", FINDINGS["place"] == "source")
    emptied = before.filter(before["op"] == "t").group_by(t_table=before["table"]).agg(t_lsn=before["lsn"].max())
    before = before.filter(before["key"].notnull(), before["op"].isin(("c", "u", "d")))
    row = ibis.window(
        group_by=[before["table"], before["key"]], order_by=[before["commit_lsn"].desc(), before["seq"].desc()]
    )
    before = before.mutate(from_end=ibis.row_number().over(row))
    last = before.filter(before["from_end"] == 0)
    last = last.left_join(emptied, last["table"] == emptied["t_table"])
    last = last.join(saved("full_tables", full_tables), "table")
    gone = (last["op"] == "d") | (last["lsn"] < last["t_lsn"]).fill_null(False)
    last = last.mutate(gone=gone)
    one = saved("snapshots", snapshots)
    last = last.cross_join(one.filter(one["first_snapshot"] == one["last_snapshot"]).select("first_snapshot"))
    # A change from before that was streamed all the same is an overlap, and may be newer than the last missing one.
    t = streamed(LOG)
    tx = transactions().select(tx_xid="xid", at="commit_lsn")
    t = t.join(tx, t["xid"] == tx["tx_xid"]).cross_join(one.select("first_snapshot"))
    again = t.filter(t["at"] <= t["first_snapshot"], t["key"].notnull()).select("table", "key").distinct()
    last = last.anti_join(again, ["table", "key"])
    r = LOG.filter(LOG["op"] == "r", LOG["key"].notnull())
    r = r.select(
        r_table="table",
        r_key="key",
        r_topic="topic",
        r_partition="partition",
        r_offset="offset",
        r_after="after",
    )
    t = last.left_join(r, [last["table"] == r["r_table"], last["key"] == r["r_key"]])
    absent = ~t["gone"] & t["r_offset"].isnull()
    back = t["gone"] & t["r_offset"].notnull()
    # Without full old rows the WAL may not hold an unchanged TOAST value, so images say nothing.
    other = ~t["gone"] & t["full"] & t["r_offset"].notnull() & ~t["expected_after"].identical_to(t["r_after"])
    t = t.mutate(absent=absent, back=back).filter(absent | back | other)
    # Read later than the snapshot's position: what it shows is streamed again, and is `chain_findings`' to tell.
    t = t.anti_join(WAL, [*_made(t, "r_after"), t["commit_lsn"] < WAL["commit_lsn"]])
    note = ibis.cases(
        (t["absent"], "committed before the snapshot, which lacks it"),
        (t["back"], "deleted before the snapshot, which has it"),
        else_="the snapshot has another row than was committed before it",
    )
    return finding(
        t,
        ibis.cases((t["back"], "resurrection"), else_="handoff-gap"),
        place=ibis.null("string"),
        note=note,
        topic=t["r_topic"],
        partition=t["r_partition"],
        offset=t["r_offset"],
        found_after=t["r_after"],
    )


def blamed_keys(has_wal: bool) -> Expr:
    """Keys that an anomaly found so far names already: a gap in their chain is its consequence."""
    named = FINDINGS.filter(
        FINDINGS["key"].notnull(), ~FINDINGS["name"].isin(("unsettled", "covered", "outside", "phantom-change"))
    )
    keys = named.select("table", "key", cause="name")
    if has_wal:
        wrong = saved("pairs", pairs)
        wrong = wrong.filter(wrong["kind"] == "differs", wrong["l_key"].notnull())
        keys = ibis.union(keys, wrong.select(table="l_table", key="l_key", cause=ibis.literal("value-drift")))
    return keys.group_by("table", "key").agg(cause=keys["cause"].min())
