"""What a seed draws: the same again, in the mix that was promised, and never a row that isn't there."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from typing import cast

import pytest

from cdcpipe.errors import UsageError
from cdcpipe.workload.operations import DOOMED, HOT_CUSTOMERS, MOVED, STRIDE
from cdcpipe.workload.plan import Plan
from cdcpipe.workload.shop import Shop
from cdcpipe.workload.values import Pools


def drawn(shop: Shop, connection: int, mean: float, count: int, *, commits: bool = True) -> Iterator[Plan]:
    operations = shop.operations(connection, mean)
    due = 0.0
    for _ in range(count):
        plan = operations.draw(due)
        yield plan
        if plan.commit and commits:
            plan.on_commit()
            due += plan.events / 1000


def steps_of(plan: Plan) -> list[tuple[str, str, int, bytes | None]]:
    return [(step.sql, repr(step.parameters), step.rows, step.copy) for step in plan.steps]


def test_a_seed_draws_the_same_transactions_again() -> None:
    first = [steps_of(plan) for plan in drawn(Shop(7), 2, 20, 500)]
    assert first == [steps_of(plan) for plan in drawn(Shop(7), 2, 20, 500)]


@pytest.mark.parametrize(("seed", "connection"), [(8, 2), (7, 3)])
def test_another_seed_or_connection_draws_others(seed: int, connection: int) -> None:
    first = [steps_of(plan) for plan in drawn(Shop(7), 2, 20, 50)]
    assert first != [steps_of(plan) for plan in drawn(Shop(seed), connection, 20, 50)]


def test_a_transaction_that_was_not_committed_leaves_the_ids_where_they_were() -> None:
    plans = [plan for plan in drawn(Shop(7), 0, 20, 30, commits=False) if plan.commit]
    steps = [step for plan in plans for step in plan.steps if step.kept]
    lows = {cast(int, step.parameters["lo"]) for step in steps if step.parameters and "lo" in step.parameters}
    assert lows == {STRIDE + 1}


@pytest.mark.parametrize(("mean", "low", "high"), [(4, 3, 8), (100, 70, 130)])
def test_the_mix_is_that_of_a_shop(mean: float, low: float, high: float) -> None:
    ops: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    sizes = []
    for plan in drawn(Shop(11), 0, mean, 4000):
        outcomes["savepoint" if plan.kind == "savepoint" else "commit" if plan.commit else "rollback"] += 1
        if plan.commit:
            sizes.append(plan.events)
            for step in plan.steps:
                if step.kept and step.op:
                    ops[step.op] += step.rows
    total = sum(ops.values())
    assert total == sum(sizes)
    assert low < total / len(sizes) < high
    assert 0.45 < ops["c"] / total < 0.65
    assert 0.25 < ops["u"] / total < 0.45
    assert 0.04 < ops["d"] / total < 0.2
    assert 0.015 < outcomes["rollback"] / 4000 < 0.05
    assert 0.015 < outcomes["savepoint"] / 4000 < 0.05
    assert min(sizes) == 1
    assert sum(size <= 8 for size in sizes) / len(sizes) > 0.25  # some stay small at any rate


def test_only_rows_that_are_there_are_changed_and_none_twice() -> None:
    """A model of the tables by ids: what a plan touches must be in it, what it inserts must not."""
    shop = Shop(5, truncate=True)
    tables: dict[str, set[int]] = {table: set() for table in shop.tables}
    tables["public.customers"] |= set(range(1, HOT_CUSTOMERS + 1))
    for plan in drawn(shop, 1, 12, 3000):
        for step in plan.steps:
            if step.table is None:
                continue
            ids, rows = touched(step.parameters, step.copy), tables[step.table]
            if step.op == "t":
                rows.clear()
                continue
            assert len(ids) == step.rows
            if not (plan.commit and step.kept):
                if step.op == "c":
                    assert all(2 * STRIDE + DOOMED < id_ < 3 * STRIDE for id_ in ids)
                continue
            if step.op == "c":
                assert not ids & rows
                assert all(2 * STRIDE < id_ < 2 * STRIDE + MOVED for id_ in ids)
                rows |= ids
            else:
                assert ids <= rows
                if step.op == "d":
                    rows -= ids
                elif plan.kind == "rekey":
                    assert step.parameters is not None
                    rows -= ids
                    rows.add(cast(int, step.parameters["to"]))


def touched(parameters: object, copy: bytes | None) -> set[int]:
    if copy is not None:
        return {int(line.split(b"\t")[0]) for line in copy.splitlines()}
    values = cast("dict[str, object]", parameters or {})
    if "ids" in values:
        return {int(id_) for id_ in cast(str, values["ids"]).strip("{}").split(",")}
    if "id" in values:
        return {cast(int, values["id"])}
    return set(range(cast(int, values["lo"]), cast(int, values["hi"]) + 1)) if "lo" in values else set()


def test_some_customers_are_far_hotter_than_others() -> None:
    hits: Counter[int] = Counter()
    for plan in drawn(Shop(3), 0, 4, 4000):
        hits.update(
            cast(int, step.parameters["id"]) for step in plan.steps if step.parameters and "id" in step.parameters
        )
    shared = {id_: count for id_, count in hits.items() if id_ <= HOT_CUSTOMERS}
    assert max(shared.values()) > 20 * sum(shared.values()) / HOT_CUSTOMERS
    assert len(shared) > 200


def test_every_transaction_that_is_to_be_committed_can_be_proven() -> None:
    plans = [plan for plan in drawn(Shop(3, truncate=True), 0, 10, 3000) if plan.commit]
    assert {plan.kind for plan in plans} >= {
        "checkout",
        "payment",
        "import",
        "change",
        "profile",
        "purge",
        "rekey",
        "truncate",
    }
    assert {plan.kind for plan in plans if plan.proof is None} == set()


def test_truncate_is_not_part_of_the_default_mix() -> None:
    assert "t" not in {step.op for plan in drawn(Shop(3), 0, 10, 2000) for step in plan.steps}
    assert "t" in {step.op for plan in drawn(Shop(3, truncate=True), 0, 10, 2000) for step in plan.steps}


def test_large_values_do_not_compress() -> None:
    pools = Pools.from_seed(1)
    for value in (*pools.portraits, *(text.encode() for text in pools.texts)):
        # zlib also codes by frequency, which PostgreSQL doesn't: base64 shrinks to 6 bits in 8 and no further
        assert len(zlib.compress(value, 9)) > 0.74 * len(value)
        assert len(value) > 2100


def test_pools_hold_odd_strings_whatever_the_seed() -> None:
    for seed in range(5):
        names = Pools.from_seed(seed).names
        assert len(names) == 64
        assert {"", "NULL", "e\u0301 is not \u00e9"} <= set(names)


def test_the_hot_statements_fit_the_cache_of_psycopg() -> None:
    """psycopg parses a query that is longer than this anew each time, which costs as much as running it."""
    from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH

    for seed in range(20):
        statements = Shop(seed).statements
        for statement in (statements.orders, statements.items, statements.payments):
            assert len(statement) <= MAX_CACHED_STATEMENT_LENGTH


@pytest.mark.parametrize("seed", [1.5, "7", True, 2**63])
def test_a_seed_that_is_no_number_of_64_bits_is_refused(seed: object) -> None:
    with pytest.raises(UsageError, match="`seed` is"):
        Shop(cast(int, seed))
