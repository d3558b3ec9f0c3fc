"""log against archive, record by record: `(topic, partition, offset)` is the identity.

As at the source, blocks of offsets are compared by count and digest first; only blocks that differ are joined.
Offsets may have gaps (transaction markers, aborted records): what must be covered is every record of the log ledger.

A run of two or more records that no object holds is an object's doing (`offset-hole`); a single one, or one within
the range of an object, is a row's (`lost-change`). Likewise `overlapping-object` and `duplicate-row`.
"""

from __future__ import annotations

from typing import Final

import ibis

from cdcpipe.verify.source import RECORD, SIDE
from cdcpipe.verify.tables import (
    ARCHIVE,
    DEAD_LETTERS,
    FILTERED,
    FINDINGS,
    LOG,
    OBJECT_HOURS,
    OBJECT_TIMES,
    PARTITIONS,
    TOMBSTONES,
    UNDECODED,
    Expr,
    bit_xor,
    finding,
    record_digest,
    saved,
    toast,
)

__all__ = [
    "accounts",
    "archive_pairs",
    "archive_repeats",
    "differing_rows",
    "early_rows",
    "filed_late",
    "holes",
    "missing_rows",
    "objects",
    "overlaps",
    "phantom_rows",
    "repeat_rows",
    "sink_blocks",
    "unaccounted",
]

_BLOCK_BITS: Final = 6


def _to_archive() -> Expr:
    return LOG.filter(LOG["op"] != "m").anti_join(FILTERED, "table")


def _archived() -> Expr:
    return ARCHIVE.filter(ARCHIVE["op"] != "m", ARCHIVE["offset"].notnull())


def sink_blocks() -> Expr:
    """Blocks of offsets in which log and archive differ."""

    def blocks(t: Expr) -> Expr:
        return t.group_by("topic", "partition", block=t["offset"] >> _BLOCK_BITS).agg(
            n=t.count(), x=bit_xor(record_digest(t))
        )

    both = blocks(_to_archive()).outer_join(blocks(_archived()), ["topic", "partition", "block"])
    same = both["n"].identical_to(both["n_right"]) & both["x"].identical_to(both["x_right"])
    return both.filter(~same).select(
        **{name: ibis.coalesce(both[name], both[f"{name}_right"]) for name in ("topic", "partition", "block")}
    )


def _in_differing_blocks(t: Expr) -> Expr:
    blocks = saved("sink_blocks", sink_blocks)
    return t.mutate(block=t["offset"] >> _BLOCK_BITS).semi_join(blocks, ["topic", "partition", "block"])


def archive_pairs() -> Expr:
    """Records at which log and archive differ: `kind` is `missing` (in the archive), `extra`, `differs`."""

    def side(t: Expr, prefix: str) -> Expr:
        t = _in_differing_blocks(t)
        columns = {f"{prefix}_{name}": t[name] for name in SIDE}
        return t.select(**columns, **{f"{prefix}_toast": toast(t["unknown"]), f"{prefix}_digest": record_digest(t)})

    l, a = side(_to_archive(), "l"), side(_archived(), "a")  # noqa: E741
    both = l.join(a, [l[f"l_{name}"] == a[f"a_{name}"] for name in RECORD], how="outer")
    both = both.filter(~both["l_digest"].identical_to(both["a_digest"]))
    kind = ibis.cases((both["a_offset"].isnull(), "missing"), (both["l_offset"].isnull(), "extra"), else_="differs")
    return both.mutate(kind=kind)


def archive_repeats(whole: bool) -> Expr:
    """Second and later rows of one record. `whole`: look everywhere, since there is no log ledger."""
    t = _archived() if whole else _in_differing_blocks(_archived())
    row = ibis.window(group_by=[t[name] for name in RECORD], order_by=[t["object"]])
    t = t.mutate(
        nth=ibis.row_number().over(row),
        digest=record_digest(t),
        first_digest=record_digest(t).first().over(row),
        first_object=t["object"].first().over(row),
        first_after=t["after"].first().over(row),
    )
    t = t.filter(t["nth"] > 0)
    return t.mutate(identical=t["digest"] == t["first_digest"])


def objects() -> Expr:
    """What each object holds of each partition."""
    t = _archived()
    return t.group_by("object", "topic", "partition").agg(
        low=t["offset"].min(),
        high=t["offset"].max(),
        n=t.count(),
        earliest=t["committed_at"].min(),
        latest=t["committed_at"].max(),
    )


def holes() -> Expr:
    """Intervals of offsets between the objects of a partition, both ends not included."""
    t = saved("objects", objects)
    row = ibis.window(
        group_by=[t["topic"], t["partition"]],
        order_by=[t["low"], t["high"]],
        rows=(None, -1),
    )
    t = t.mutate(reached=t["high"].max().over(row))
    return t.filter(t["low"] > t["reached"] + 1).select("topic", "partition", hole_begin="reached", hole_end="low")


def _settled(t: Expr) -> Expr:
    """With `settled`, the offset before which the sink must be done; null where there is no bound."""
    known = PARTITIONS.select(p_topic="topic", p_partition="partition", begin="begin", end="end", settled="settled")
    return t.left_join(known, [t["topic"] == known["p_topic"], t["partition"] == known["p_partition"]])


def missing_rows() -> Expr:
    """Findings of what the log holds and neither the archive nor the dead letter queue. `unsettled` is none yet."""
    t = saved("archive_pairs", archive_pairs)
    t = t.filter(t["kind"] == "missing")
    t = t.select(**{name: t[f"l_{name}"] for name in SIDE})
    t = t.anti_join(DEAD_LETTERS, RECORD)
    h = saved("holes", holes).select(
        h_topic="topic", h_partition="partition", hole_begin="hole_begin", hole_end="hole_end"
    )
    t = t.left_join(
        h,
        [
            t["topic"] == h["h_topic"],
            t["partition"] == h["h_partition"],
            t["offset"] > h["hole_begin"],
            t["offset"] < h["hole_end"],
        ],
    )
    t = t.mutate(in_hole=t["hole_begin"].count().over(group_by=[t["topic"], t["partition"], t["hole_begin"]]))
    t = _settled(t)
    name = ibis.cases(
        ((t["offset"] >= t["settled"]).fill_null(False), "unsettled"),
        (t["hole_begin"].notnull() & (t["in_hole"] > 1), "offset-hole"),
        else_="lost-change",
    )
    return finding(t, name, place="sink", expected_before=t["before"], expected_after=t["after"])


def phantom_rows() -> Expr:
    """Findings of rows that no record of the log accounts for; `outside` lies beyond what the log ledger covers."""
    t = saved("archive_pairs", archive_pairs)
    t = t.filter(t["kind"] == "extra")
    t = t.select(**{name: t[f"a_{name}"] for name in SIDE})
    t = t.anti_join(TOMBSTONES, RECORD).anti_join(UNDECODED, RECORD).anti_join(FILTERED, "table")
    t = _settled(t)
    outside = (t["offset"] < t["begin"]).fill_null(False) | (t["offset"] >= t["end"]).fill_null(False)
    name = ibis.cases((outside, "outside"), else_="phantom-change")
    return finding(t, name, place="sink", found_before=t["before"], found_after=t["after"])


def differing_rows() -> Expr:
    """Findings of rows that say something else than their record."""
    t = saved("archive_pairs", archive_pairs)
    t = t.filter(t["kind"] == "differs")
    again = saved("archive_repeats", archive_repeats, False)
    again = again.select(*(again[name].name(f"l_{name}") for name in RECORD)).distinct()
    t = t.anti_join(again, [f"l_{name}" for name in RECORD])
    name = ibis.cases((t["l_toast"] != t["a_toast"], "toast-hole"), else_="value-drift")
    note = ibis.cases(
        (t["l_table"] != t["a_table"], "filed under another table"),
        (~t["l_key"].identical_to(t["a_key"]), "filed under another key"),
        (t["l_op"] != t["a_op"], "another operation"),
        (~t["l_after"].identical_to(t["a_after"]), "another row image"),
        (~t["l_before"].identical_to(t["a_before"]), "another old row image"),
        else_="another transaction or place in it",
    )
    values = {name_: t[f"l_{name_}"] for name_ in ("table", "xid", "seq", "commit_lsn", "lsn", "op", "key", *RECORD)}
    return finding(
        t,
        name,
        place="sink",
        note=note,
        object=t["a_object"],
        committed_at=t["l_committed_at"],
        expected_before=t["l_before"],
        expected_after=t["l_after"],
        found_before=t["a_before"],
        found_after=t["a_after"],
        **values,
    )


# --- repetitions and overlaps --------------------------------------------------


def overlaps(whole: bool) -> Expr:
    """Pairs of objects whose offsets of one partition intersect: with `both`, the records that are in both.

    Objects of different folders may interleave (the hour turns); they count only with two or more records in both.
    `stretched`: one of them has a single record that lies elsewhere too, which may be what makes its range so long.
    """
    a, b = saved("objects", objects), saved("objects", objects).view()
    met = [
        a["topic"] == b["topic"],
        a["partition"] == b["partition"],
        a["object"] < b["object"],
        a["low"] <= b["high"],
        a["high"] >= b["low"],
    ]
    pairs_ = a.join(b, met).select(
        topic=a["topic"],
        partition=a["partition"],
        one=a["object"],
        two=b["object"],
        low=ibis.greatest(a["low"], b["low"]),
        high=ibis.least(a["high"], b["high"]),
    )
    again = saved("archive_repeats", archive_repeats, whole)
    again = again.filter(again["object"] != again["first_object"])
    again = again.group_by(
        r_topic=again["topic"], r_partition=again["partition"], r_one=again["first_object"], r_two=again["object"]
    ).agg(both=again.count(), unlike=(~again["identical"]).sum())
    pairs_ = pairs_.left_join(
        again,
        [
            pairs_["topic"] == again["r_topic"],
            pairs_["partition"] == again["r_partition"],
            pairs_["one"] == again["r_one"],
            pairs_["two"] == again["r_two"],
        ],
    )
    single = again.filter(again["both"] == 1)
    single = single.select("r_topic", "r_partition", s="r_one").union(
        single.select("r_topic", "r_partition", s="r_two"), distinct=True
    )
    pairs_ = pairs_.drop("r_topic", "r_partition", "r_one", "r_two")
    for side in ("one", "two"):
        lone = single.view()
        met = [
            pairs_["topic"] == lone["r_topic"],
            pairs_["partition"] == lone["r_partition"],
            pairs_[side] == lone["s"],
        ]
        joined = pairs_.left_join(lone, met)
        pairs_ = joined.select(*pairs_.columns, **{f"{side}_stretched": joined["s"].notnull()})
    one = OBJECT_HOURS.select(one="object", one_folder="folder")
    two = OBJECT_HOURS.select(two="object", two_folder="folder")
    pairs_ = pairs_.left_join(one, "one").drop("one_right").left_join(two, "two").drop("two_right")
    pairs_ = pairs_.mutate(both=pairs_["both"].fill_null(0), unlike=pairs_["unlike"].fill_null(0))
    counts = (pairs_["one_folder"] == pairs_["two_folder"]) | (pairs_["both"] > 1)
    pairs_ = pairs_.mutate(stretched=pairs_["one_stretched"] | pairs_["two_stretched"])
    return pairs_.filter(counts).select(
        "topic", "partition", "one", "two", "low", "high", "both", "unlike", "stretched"
    )


def overlap_findings(whole: bool) -> Expr:
    """`overlapping-object`; a consequence where one repeated row made the ranges meet."""
    t = saved("overlaps", overlaps, whole)
    return finding(
        t,
        "overlapping-object",
        place="sink",
        cause=ibis.cases(
            ((t["both"] == 1) | ((t["both"] == 0) & t["stretched"]), "duplicate-row"), else_=ibis.null("string")
        ),
        # Only a range whose every common record is alike is a repetition that a level may allow.
        repeat=ibis.cases(
            (t["both"] == 0, ibis.null("string")),
            (t["unlike"] > 0, ibis.literal("differs")),
            else_=ibis.literal("identical"),
        ),
        note=ibis.literal("offsets ")
        + t["low"].cast("string")
        + " to "
        + t["high"].cast("string")
        + " lie also in "
        + t["one"]
        + "; records in both: "
        + t["both"].cast("string"),
        offset=t["low"],
        object=t["two"],
    )


def repeat_rows(whole: bool) -> Expr:
    """`duplicate-row`; a consequence where two objects have two or more records in common."""
    t = saved("archive_repeats", archive_repeats, whole)
    o = saved("overlaps", overlaps, whole)
    o = o.filter(o["both"] > 1).select(o_topic="topic", o_partition="partition", o_one="one", o_two="two")
    t = t.left_join(
        o,
        [
            t["topic"] == o["o_topic"],
            t["partition"] == o["o_partition"],
            t["first_object"] == o["o_one"],
            t["object"] == o["o_two"],
        ],
    )
    return finding(
        t,
        "duplicate-row",
        place="sink",
        cause=ibis.cases((t["o_two"].notnull(), "overlapping-object"), else_=ibis.null("string")),
        repeat=ibis.cases((t["identical"], "identical"), else_="differs"),
        expected_after=t["first_after"],
        found_before=t["before"],
        found_after=t["after"],
        note=ibis.literal("first in ") + t["first_object"].fill_null("?"),
    )


# --- folders ---------------------------------------------------------------------


def _filed(skew_us: int) -> Expr:
    o = saved("objects", objects)
    o = o.join(OBJECT_HOURS, "object")
    o = o.filter(o["ends"].notnull())
    return o.mutate(early=o["latest"] >= o["ends"] + skew_us)


def early_rows(skew_us: int) -> Expr:
    """Rows in the folder of an hour that was over when they were committed."""
    o = _filed(skew_us)
    o = o.filter(o["early"]).select("object", "ends").distinct()
    t = _archived().join(o, "object")
    return t.filter(t["committed_at"] >= t["ends"] + skew_us).select(*SIDE)


def proper(skew_us: int) -> Expr:
    """Objects per partition, without the rows that are in too early a folder."""
    o = _filed(skew_us)
    bad = o.filter(o["early"])
    fine = o.filter(~o["early"]).select("object", "topic", "partition", "low", "high", "begins")
    t = _archived().join(bad.select("object", "topic", "partition", "begins", "ends"), ["object", "topic", "partition"])
    t = t.filter(t["committed_at"] < t["ends"] + skew_us)
    rest = t.group_by("object", "topic", "partition", "begins").agg(low=t["offset"].min(), high=t["offset"].max())
    return ibis.union(fine, rest.select("object", "topic", "partition", "low", "high", "begins"))


def filed_late(skew_us: int) -> Expr:
    """Objects of an hour in which a partition has rows before rows that are filed under an earlier hour."""
    o = saved("proper", proper, skew_us)
    e = o.view()
    both = o.join(
        e,
        [
            o["topic"] == e["topic"],
            o["partition"] == e["partition"],
            o["begins"] > e["begins"],
            o["low"] < e["high"],
        ],
    ).select(object=o["object"], topic=o["topic"], partition=o["partition"], high=e["high"])
    return both.group_by("object", "topic", "partition").agg(until=both["high"].max())


def misfiled(skew_us: int) -> Expr:
    """`misfiled-row`: filed before it was committed, or under a later hour than rows that came after it."""
    early = finding(
        saved("early_rows", early_rows, skew_us), "misfiled-row", place="sink", note="committed after the folder's hour"
    )
    o = saved("filed_late", filed_late, skew_us)
    t = _archived().join(o, ["object", "topic", "partition"])
    t = t.filter(t["offset"] < t["until"])
    t = t.anti_join(saved("early_rows", early_rows, skew_us), [*RECORD, "object"])
    after = finding(
        t, "misfiled-row", place="sink", note="later records of the partition are filed under an earlier hour"
    )
    return ibis.union(early, after)


def misfiled_by_time() -> Expr:
    """`misfiled-row`, an object a finding, where the archive ledger knows the times of the records in each object."""
    t = OBJECT_TIMES.join(OBJECT_HOURS.filter(OBJECT_HOURS["ends"].notnull()), "object")
    t = t.filter((t["event_time_min"] < t["begins"]) | (t["event_time_max"] >= t["ends"]))
    note = ibis.cases(
        (t["event_time_min"] < t["begins"], "holds records from before the hour of its folder"),
        else_="holds records from after the hour of its folder",
    )
    at = ibis.cases((t["event_time_min"] < t["begins"], t["event_time_min"]), else_=t["event_time_max"])
    return finding(t, "misfiled-row", place="sink", note=note, committed_at=at)


def misfiled_by_commit() -> Expr:
    """`misfiled-row` where the folder is made of the source's commit time: it must be exactly that hour."""
    t = _archived().join(OBJECT_HOURS.filter(OBJECT_HOURS["ends"].notnull()), "object")
    t = t.filter((t["committed_at"] < t["begins"]) | (t["committed_at"] >= t["ends"]))
    return finding(t, "misfiled-row", place="sink", note="committed in another hour than its folder's")


# --- accounts ----------------------------------------------------------------------


def unaccounted() -> Expr:
    """`unaccounted-drop`: records that are no change, and lie neither in the archive nor among the dead letters."""
    t = UNDECODED.anti_join(DEAD_LETTERS, RECORD).anti_join(ARCHIVE, RECORD)
    t = _settled(t)
    t = t.filter(~(t["offset"] >= t["settled"]).fill_null(False))
    return finding(t, "unaccounted-drop", place="sink", note=ibis.literal("could not be decoded: ") + t["reason"])


def accounts() -> Expr:
    """Per partition: records of the log, archived, dead-lettered, declared filtered, tombstones, undecoded."""

    def part(t: Expr, what: str) -> Expr:
        return t.select(*RECORD, what=ibis.literal(what))

    def covered(t: Expr) -> Expr:
        """Without what lies beyond the log ledger, such as rows of the same hour that were archived before."""
        known = PARTITIONS.select(p_topic="topic", p_partition="partition", begin="begin", end="end")
        t = t.left_join(known, [t["topic"] == known["p_topic"], t["partition"] == known["p_partition"]])
        outside = (t["offset"] < t["begin"]).fill_null(False) | (t["offset"] >= t["end"]).fill_null(False)
        return t.filter(~outside)

    filtered = LOG.filter(LOG["op"] != "m").semi_join(FILTERED, "table")
    t = ibis.union(
        part(LOG.filter(LOG["op"] != "m"), "changes"),
        part(covered(_archived()), "archived"),
        part(covered(DEAD_LETTERS.filter(DEAD_LETTERS["offset"].notnull())), "dead_lettered"),
        part(filtered, "filtered"),
        part(TOMBSTONES, "tombstones"),
        part(UNDECODED, "undecoded"),
    )
    # By record, so that a row that is there twice is counted once: distinct offsets would need a set of them all.
    t = t.group_by("topic", "partition").agg(
        first=t["offset"].min(),
        last=t["offset"].max(),
        **{
            name: (t["what"] == name).sum()
            for name in ("changes", "archived", "dead_lettered", "filtered", "tombstones", "undecoded")
        },
    )
    return t.order_by("topic", "partition")


def undelivered() -> Expr:
    """`unaccounted-drop`, as a consequence: partitions whose accounts don't balance since changes are missing."""
    t = FINDINGS.filter(FINDINGS["place"] == "sink", FINDINGS["name"].isin(("lost-change", "offset-hole")))
    t = t.group_by("topic", "partition").agg(n=t.count(), cause=t["name"].max(), offset=t["offset"].min())
    note = t["n"].cast("string") + " records are neither archived, nor dead-lettered, nor declared filtered"
    return finding(t, "unaccounted-drop", place="sink", cause=t["cause"], note=note)


def saved_objects() -> Expr:
    """The saved `objects`."""
    return saved("objects", objects)
