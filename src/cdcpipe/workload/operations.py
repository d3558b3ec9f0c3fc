"""What happens in the shop: each kind of transaction, drawn from a seed for one connection.

Every connection has a range of ids of its own for what it inserts, and changes and deletes only rows it has
inserted, except for the first customers: these are shared by all, and hot. So a plan knows exactly which rows it
will touch, and no deadlock is possible: shared rows are locked last, in the order of their ids.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from psycopg.types.numeric import Int8

from cdcpipe.workload.plan import Plan, Step
from cdcpipe.workload.statements import Statements
from cdcpipe.workload.values import Pools

__all__ = ["DOOMED", "HOT_CUSTOMERS", "MOVED", "STRIDE", "Operations", "Window"]

HOT_CUSTOMERS = 1000  # ids 1 to 1000, shared by all connections
STRIDE = 10**10  # ids of connection c: from (c + 1) * STRIDE
MOVED = 8 * 10**9  # offset of customers whose primary key was changed
DOOMED = 9 * 10**9  # offset of rows that are rolled back: none with such an id may ever be seen downstream
_EPOCH = datetime(2026, 3, 1, tzinfo=UTC)  # the shop's clock starts here: values depend on the seed, not on today

_CUSTOMERS, _ORDERS, _ITEMS, _PAYMENTS, _CARTS = (
    f"public.{name}" for name in ("customers", "orders", "order_items", "payments", "carts")
)


@dataclass(slots=True)
class Window:
    """The rows of one table that this connection has inserted and that are still there: ids `low` to `next - 1`."""

    low: int
    next: int

    @property
    def live(self) -> int:
        return self.next - self.low


@dataclass(slots=True)
class _Batch:
    """Orders that were inserted together, and their items."""

    orders: tuple[int, int]
    items: tuple[int, int]


@dataclass(slots=True)
class Operations:
    """Draws the transactions of one connection, one after another.

    `next_ids` is where each table's ids go on; `events_mean` the average size; `truncate` adds a table of
    carts that is emptied by TRUNCATE now and then.
    """

    seed: int
    connection: int
    pools: Pools
    statements: Statements
    events_mean: float
    truncate: bool = False
    next_ids: dict[str, int] = field(default_factory=dict)
    _rng: random.Random = field(init=False)
    _windows: dict[str, Window] = field(init=False)
    _batches: deque[_Batch] = field(init=False, default_factory=deque)
    _at: datetime = field(init=False, default=_EPOCH)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"operations/{self.seed}/{self.connection}")
        first = (self.connection + 1) * STRIDE + 1
        starts = {name: self.next_ids.get(name, first) for name in (_CUSTOMERS, _ORDERS, _ITEMS, _PAYMENTS, _CARTS)}
        self._windows = {name: Window(start, start) for name, start in starts.items()}

    def draw(self, due: float) -> Plan:
        """The transaction that is due `due` seconds after the start."""
        self._at = _EPOCH + timedelta(microseconds=round(due * 1e6))
        chance = self._rng.random()
        if chance < 0.03:
            return self._rolled_back()
        size = self._size()
        if chance < 0.06:
            return self._checkout(size, savepoint=True)
        kind = self._rng.choices(_KINDS, cum_weights=_CUMULATIVE)[0]
        return kind(self, size) or self._checkout(size)

    def _size(self) -> int:
        """About how many events: a third are small at any rate, the rest spread widely around the mean."""
        if self._rng.random() < 0.35:
            return self._rng.randint(1, 5)
        rest = max((self.events_mean - 1.05) / 0.65, 1.0)
        return 1 + min(int(self._rng.expovariate(1 / rest)), int(6 * rest))

    # Kinds of transactions. Each gives None when the rows that it needs aren't there yet. --------------

    def _checkout(self, size: int, *, savepoint: bool = False, doomed: bool = False) -> Plan:
        """Orders with their items, and what the customer has left: multi-row INSERTs, then a hot row."""
        order_count = max(1, size // 4)
        item_count = max(1, size - order_count - 1)
        orders = self._range(_ORDERS, order_count, doomed=doomed)
        items = self._range(_ITEMS, item_count, doomed=doomed)
        steps = [self._insert_orders(orders), self._insert_items(items, orders)]
        if savepoint:
            steps.extend(self._undone(min(size, 20), orders))
        amount = self._rng.randrange(1, 50_000) / 100
        spend = {"amount": f"{amount:.2f}", "at": self._at, "id": Int8(self._hot())}
        steps.append(Step(self.statements.spend, spend, _CUSTOMERS, "u", 1))
        batch = _Batch(orders, items)

        def on_commit() -> None:
            self._windows[_ORDERS].next = orders[1] + 1
            self._windows[_ITEMS].next = items[1] + 1
            self._batches.append(batch)

        kind = "savepoint" if savepoint else "checkout"
        return Plan(kind, tuple(steps), self._there(_ORDERS, orders[1]), on_commit=on_commit)

    def _undone(self, count: int, orders: tuple[int, int]) -> list[Step]:
        """Work within a savepoint that is rolled back: no event of it may be seen."""
        items = self._range(_ITEMS, count, doomed=True)
        insert = self._insert_items(items, orders)
        status = self._status(orders, "returned")
        return [
            Step("SAVEPOINT undone"),
            *(Step(s.sql, s.parameters, s.table, s.op, s.rows, kept=False) for s in (insert, status)),
            Step("ROLLBACK TO SAVEPOINT undone"),
        ]

    def _payment(self, size: int, *, doomed: bool = False) -> Plan | None:
        """Orders are paid: INSERTs into payments, UPDATEs of orders."""
        orders = self._pick(_ORDERS, max(1, size // 2))
        if orders is None:
            return None
        payments = self._range(_PAYMENTS, orders[1] - orders[0] + 1, doomed=doomed)
        insert = self._insert(self.statements.payments, _PAYMENTS, payments, order=Int8(orders[0]), at=self._at)
        return Plan(
            "payment",
            (insert, self._status(orders, "paid")),
            self._there(_PAYMENTS, payments[1]),
            on_commit=lambda: self._grow(_PAYMENTS, payments),
        )

    def _import(self, size: int) -> Plan | None:
        """A bank's file: payments by COPY."""
        count = max(size, 10)
        orders = self._pick(_ORDERS, 1)
        if orders is None:
            return None
        lo, hi = payments = self._range(_PAYMENTS, count)
        pool, mask, start = self.pools.payments, len(self.pools.payments) - 1, self._rng.getrandbits(8)
        order = orders[0]
        rows = b"\n".join([b"%d\t%d\t%b" % (g, order, pool[(start + g) & mask]) for g in range(lo, hi + 1)]) + b"\n"
        step = Step(self.statements.copy_payments, None, _PAYMENTS, "c", count, copy=rows)
        return Plan("import", (step,), self._there(_PAYMENTS, hi), on_commit=lambda: self._grow(_PAYMENTS, payments))

    def _shipment(self, size: int) -> Plan | None:
        """Orders get another status: an UPDATE of a range."""
        orders = self._pick(_ORDERS, size)
        if orders is None:
            return None
        step = self._status(orders, self._rng.choice(("packed", "shipped", "returned")))
        return Plan("shipment", (step,), self._changed(_ORDERS, "updated_at", orders[1]))

    def _change(self, size: int, *, doomed: bool = False) -> Plan | None:
        """Items get another quantity and discount."""
        items = self._pick(_ITEMS, size)
        if items is None:
            return None
        discount = None if self._rng.random() < 0.3 else f"{self._rng.randrange(10_000) / 10_000:.4f}"
        parameters = {"discount": discount, "at": self._at, **_bounds(items)}
        step = Step(self.statements.item_change, parameters, _ITEMS, "u", items[1] - items[0] + 1)
        return Plan("change", (step,), self._changed(_ITEMS, "updated_at", items[1]))

    def _settlement(self, size: int) -> Plan | None:
        payments = self._pick(_PAYMENTS, size)
        if payments is None:
            return None
        parameters = {"at": self._at, **_bounds(payments)}
        step = Step(self.statements.settle, parameters, _PAYMENTS, "u", payments[1] - payments[0] + 1)
        return Plan("settlement", (step,), self._changed(_PAYMENTS, "settled_at", payments[1]))

    def _signup(self, size: int) -> Plan:
        """New customers; one in eight transactions brings values too large for a page."""
        customers = self._range(_CUSTOMERS, min(size, 40))
        large = self._rng.random() < 0.125
        portrait = self._rng.choice(self.pools.portraits) if large else None
        about = self._rng.choice(self.pools.texts) if large and self._rng.random() < 0.5 else None
        step = self._insert(
            self.statements.customers, _CUSTOMERS, customers, at=self._at, portrait=portrait, about=about
        )
        return Plan(
            "signup",
            (step,),
            self._there(_CUSTOMERS, customers[1]),
            on_commit=lambda: self._grow(_CUSTOMERS, customers),
        )

    def _profile(self, size: int) -> Plan | None:
        """Customers of this connection are changed, a few of them often; large values are left alone."""
        window = self._windows[_CUSTOMERS]
        if window.live == 0:
            return None
        ids = self._zipf(window, min(size, 40))
        last = self._changed(_CUSTOMERS, "seen_at", ids[-1])
        if size <= 5 and self._rng.random() < 0.05:
            return Plan("portrait", (self._portrait(ids[-1]),), last)
        tail = f"+{self._rng.randrange(1000)}@example.org"
        parameters = {"ids": _array(ids), "at": self._at, "tail": tail}
        step = Step(self.statements.profile, parameters, _CUSTOMERS, "u", len(ids))
        return Plan("profile", (step,), last)

    def _portrait(self, customer: int) -> Step:
        """A large value is replaced, or taken away."""
        portrait = self._rng.choice((None, b"", *self.pools.portraits))
        about = self._rng.choice((None, "", *self.pools.texts))
        parameters = {"portrait": portrait, "about": about, "at": self._at, "id": Int8(customer)}
        return Step(self.statements.portrait, parameters, _CUSTOMERS, "u", 1)

    def _reward(self, size: int) -> Plan | None:
        """A bonus for hot customers, and its booking."""
        ids = sorted({self._hot() for _ in range(min(size, 30))})
        return self._booked("reward", Step(self.statements.reward, {"ids": _array(ids)}, _CUSTOMERS, "u", len(ids)))

    def _booked(self, kind: str, step: Step, on_commit: Callable[[], None] | None = None) -> Plan | None:
        """`step`, which others can undo, beside a payment, which they can't: that one is the proof."""
        orders = self._pick(_ORDERS, 1)
        if orders is None:
            return None
        payment = self._range(_PAYMENTS, 1)
        booking = self._insert(self.statements.payments, _PAYMENTS, payment, order=Int8(orders[0]), at=self._at)

        def committed() -> None:
            self._grow(_PAYMENTS, payment)
            if on_commit is not None:
                on_commit()

        return Plan(kind, (booking, step), self._there(_PAYMENTS, payment[1]), on_commit=committed)

    def _purge(self, size: int) -> Plan | None:
        """The oldest orders are deleted, with their items."""
        if len(self._batches) < 3:
            return None
        last, taken = self._batches[0], 0
        for batch in self._batches:
            last = batch
            taken += batch.orders[1] - batch.orders[0] + batch.items[1] - batch.items[0] + 2
            if taken >= size or batch is self._batches[-2]:
                break
        items = (self._windows[_ITEMS].low, last.items[1])
        orders = (self._windows[_ORDERS].low, last.orders[1])

        def on_commit() -> None:
            self._windows[_ITEMS].low = items[1] + 1
            self._windows[_ORDERS].low = orders[1] + 1
            while self._batches[0] is not last:
                self._batches.popleft()
            self._batches.popleft()

        steps = (
            Step(self.statements.delete_items, _bounds(items), _ITEMS, "d", items[1] - items[0] + 1),
            Step(self.statements.delete_orders, _bounds(orders), _ORDERS, "d", orders[1] - orders[0] + 1),
        )
        return Plan("purge", steps, self._there(_ORDERS, orders[1], there=False), on_commit=on_commit)

    def _rekey(self, size: int) -> Plan | None:
        """A customer's primary key is changed: one change in the WAL, a delete and a create in Debezium's topic."""
        window = self._windows[_CUSTOMERS]
        if window.live < 2:
            return None
        customer = window.low
        parameters = {"id": Int8(customer), "to": Int8(customer + MOVED)}
        step = Step(self.statements.rekey, parameters, _CUSTOMERS, "u", 1)

        def on_commit() -> None:
            window.low = customer + 1

        return Plan("rekey", (step,), self._there(_CUSTOMERS, customer + MOVED), on_commit=on_commit)

    def _cart(self, size: int) -> Plan | None:
        """Rows of carts, or their end by TRUNCATE."""
        if not self.truncate:
            return None
        if self._rng.random() < 0.1:
            return self._booked("truncate", Step("TRUNCATE public.carts", None, _CARTS, "t", 1))
        carts = self._range(_CARTS, min(size, 50))
        step = Step(self.statements.carts, {"at": self._at, **_bounds(carts)}, _CARTS, "c", carts[1] - carts[0] + 1)
        return self._booked("cart", step, lambda: self._grow(_CARTS, carts))

    def _rolled_back(self) -> Plan:
        """A whole transaction that ends in ROLLBACK: ids that never come to be, updates that never were."""
        size = self._rng.randint(1, 30)
        plan = self._rng.choice((self._payment, self._change, self._checkout))(size, doomed=True)
        plan = plan or self._checkout(size, doomed=True)
        return Plan(plan.kind, plan.steps, commit=False)

    # Parts ---------------------------------------------------------------------------------------

    def _range(self, table: str, count: int, *, doomed: bool = False) -> tuple[int, int]:
        """The next ids of a table, first and last."""
        first = (self.connection + 1) * STRIDE + DOOMED + 1 if doomed else self._windows[table].next
        return first, first + count - 1

    def _pick(self, table: str, count: int) -> tuple[int, int] | None:
        """A run of rows that are there; new ones more often than old ones."""
        window = self._windows[table]
        if window.live == 0:
            return None
        count = min(count, window.live)
        # log-uniform: Zipf with exponent 1, without a table of weights
        age = int((window.live - count + 1) ** self._rng.random()) - 1
        first = window.next - count - age
        return first, first + count - 1

    def _zipf(self, window: Window, count: int) -> list[int]:
        """Up to `count` different ids of `window`, the oldest the hottest, ascending."""
        return sorted({window.low - 1 + int(window.live ** self._rng.random()) for _ in range(count)})

    def _hot(self) -> int:
        """A shared customer: the first the hottest."""
        return int(HOT_CUSTOMERS ** self._rng.random())

    def _grow(self, table: str, ids: tuple[int, int]) -> None:
        self._windows[table].next = ids[1] + 1

    def _insert(self, sql: str, table: str, ids: tuple[int, int], **parameters: object) -> Step:
        values = {"seed": Int8(self.seed), **_bounds(ids), **parameters}
        return Step(sql, values, table, "c", ids[1] - ids[0] + 1)

    def _insert_orders(self, orders: tuple[int, int]) -> Step:
        return self._insert(self.statements.orders, _ORDERS, orders, at=self._at, hot=Int8(HOT_CUSTOMERS))

    def _insert_items(self, items: tuple[int, int], orders: tuple[int, int]) -> Step:
        count = Int8(orders[1] - orders[0] + 1)
        return self._insert(self.statements.items, _ITEMS, items, order=Int8(orders[0]), orders=count)

    def _status(self, orders: tuple[int, int], status: str) -> Step:
        parameters = {"status": status, "at": self._at, **_bounds(orders)}
        return Step(self.statements.status, parameters, _ORDERS, "u", orders[1] - orders[0] + 1)

    def _there(self, table: str, id_: int, *, there: bool = True) -> Step:
        verb = "EXISTS" if there else "NOT EXISTS"
        return Step(f"SELECT {verb} (SELECT FROM {table} WHERE id = %(id)s)", {"id": Int8(id_)})

    def _changed(self, table: str, column: str, id_: int) -> Step:
        """Whether a row bears this transaction's time, which no other transaction of this connection has."""
        sql = f"SELECT EXISTS (SELECT FROM {table} WHERE id = %(id)s AND {column} = %(at)s::timestamptz)"
        return Step(sql, {"id": Int8(id_), "at": self._at})


def _bounds(ids: tuple[int, int]) -> dict[str, object]:
    return {"lo": Int8(ids[0]), "hi": Int8(ids[1])}


def _array(ids: list[int]) -> str:
    return "{" + ",".join(map(str, ids)) + "}"


_MIX: dict[Callable[[Operations, int], Plan | None], float] = {
    Operations._checkout: 30,
    Operations._payment: 18,
    Operations._shipment: 6,
    Operations._change: 12,
    Operations._settlement: 4,
    Operations._import: 5,
    Operations._signup: 7,
    Operations._profile: 10,
    Operations._reward: 4,
    Operations._purge: 5,
    Operations._rekey: 0.7,
    Operations._cart: 3,
}
_KINDS = tuple(_MIX)
_CUMULATIVE = tuple(sum(list(_MIX.values())[: i + 1]) for i in range(len(_MIX)))
