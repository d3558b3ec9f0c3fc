"""The shop's tables, and the statements that work on them.

Rows are made by expressions over `h`, a hash of the row's id and the seed: the same row for the same seed, and 100
rows cost the generator as much as one. Every statement names its rows by ranges or lists of ids that exist, so how
many it changes is known before.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdcpipe.workload.values import Pools, array_of

__all__ = ["SCHEMA", "Statements"]

SCHEMA: tuple[str, ...] = (
    # CREATE TYPE knows no IF NOT EXISTS.
    """
    DO $$ BEGIN
      CREATE TYPE public.customer_tier AS ENUM ('bronze', 'silver', 'gold', 'très chic');
    EXCEPTION WHEN duplicate_object THEN NULL; END $$
    """,
    """
    DO $$ BEGIN
      CREATE TYPE public.order_status AS ENUM ('placed', 'paid', 'packed', 'shipped', 'returned');
    EXCEPTION WHEN duplicate_object THEN NULL; END $$
    """,
    """
    CREATE TABLE IF NOT EXISTS public.customers (
      id bigint PRIMARY KEY,
      email text NOT NULL,
      name varchar(200) NOT NULL,
      tier public.customer_tier,
      balance numeric(14, 2) NOT NULL,
      points integer NOT NULL,
      tags text[],
      preferences jsonb,
      portrait bytea,
      about text,
      birthday date,
      created_at timestamptz NOT NULL,
      seen_at timestamp,
      version integer NOT NULL DEFAULT 1
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS public.orders (
      id bigint PRIMARY KEY,
      customer_id bigint NOT NULL,
      reference uuid NOT NULL,
      status public.order_status NOT NULL,
      total numeric(12, 2) NOT NULL,
      currency char(3) NOT NULL,
      note text,
      shipping json,
      labels integer[],
      placed_at timestamptz NOT NULL,
      updated_at timestamp
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS public.order_items (
      id bigint PRIMARY KEY,
      order_id bigint NOT NULL,
      sku text NOT NULL,
      title text NOT NULL,
      quantity smallint NOT NULL,
      unit_price numeric(10, 2) NOT NULL,
      discount numeric(6, 4),
      gift boolean NOT NULL,
      updated_at timestamptz
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS public.payments (
      id bigint PRIMARY KEY,
      order_id bigint NOT NULL,
      method text NOT NULL,
      amount numeric(12, 2) NOT NULL,
      fee double precision,
      settled boolean,
      reference uuid NOT NULL,
      authorisation bytea,
      answer json,
      description text,
      received_on date NOT NULL,
      settled_at timestamptz
    )
    """,
)

CARTS = """
    CREATE TABLE IF NOT EXISTS public.carts (
      id bigint PRIMARY KEY,
      sku text NOT NULL,
      quantity integer NOT NULL,
      added_at timestamptz NOT NULL
    )
    """


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL of one seed. Parameters are named; `at` is the transaction's own time."""

    customers: str
    orders: str
    items: str
    payments: str

    copy_payments = (
        "COPY public.payments (id, order_id, method, amount, fee, settled, reference, authorisation, answer, "
        "description, received_on) FROM STDIN"
    )
    spend = (
        "UPDATE public.customers SET balance = balance - %(amount)s::numeric, points = points + 1, "
        "seen_at = %(at)s::timestamptz, version = version + 1 WHERE id = %(id)s"
    )
    # Rows that every connection wants are locked in the order of their ids: no deadlock.
    reward = (
        "WITH hot AS MATERIALIZED "
        "(SELECT id FROM public.customers WHERE id = ANY(%(ids)s::bigint[]) ORDER BY id FOR UPDATE) "
        "UPDATE public.customers AS c SET points = c.points + 10, version = c.version + 1 FROM hot WHERE c.id = hot.id"
    )
    profile = (
        "UPDATE public.customers SET seen_at = %(at)s::timestamptz, version = version + 1, "
        "email = left(email, 12) || %(tail)s, preferences = NULLIF(preferences, '{}'::jsonb) "
        "WHERE id = ANY(%(ids)s::bigint[])"
    )
    portrait = (
        "UPDATE public.customers SET portrait = %(portrait)s, about = %(about)s, "
        "seen_at = %(at)s::timestamptz, version = version + 1 WHERE id = %(id)s"
    )
    rekey = "UPDATE public.customers SET id = %(to)s, version = version + 1 WHERE id = %(id)s"
    status = (
        "UPDATE public.orders SET status = %(status)s::public.order_status, updated_at = %(at)s::timestamptz "
        "WHERE id BETWEEN %(lo)s AND %(hi)s"
    )
    item_change = (
        "UPDATE public.order_items SET quantity = quantity %% 9 + 1, discount = %(discount)s::numeric, "
        "updated_at = %(at)s WHERE id BETWEEN %(lo)s AND %(hi)s"
    )
    settle = "UPDATE public.payments SET settled = true, settled_at = %(at)s WHERE id BETWEEN %(lo)s AND %(hi)s"
    delete_items = "DELETE FROM public.order_items WHERE id BETWEEN %(lo)s AND %(hi)s"
    delete_orders = "DELETE FROM public.orders WHERE id BETWEEN %(lo)s AND %(hi)s"
    carts = (
        "INSERT INTO public.carts (id, sku, quantity, added_at) "
        "SELECT g, 'SKU-' || (g & 4095), (1 + (g & 7))::int, %(at)s::timestamptz "
        "FROM generate_series(%(lo)s::bigint, %(hi)s::bigint) AS g"
    )

    @classmethod
    def from_pools(cls, pools: Pools) -> Statements:
        h = "hashint8extended(g, %(seed)s::bigint) AS h"
        rows = "FROM generate_series(%(lo)s::bigint, %(hi)s::bigint) AS g, LATERAL (SELECT " + h + ") AS hash"
        names = array_of(pools.names, "text")
        titles = array_of(pools.titles, "text")
        notes = array_of(pools.notes, "text")
        shipping = array_of(pools.documents[:8], "json")
        preferences = array_of(pools.documents, "jsonb")
        # An array of arrays would have to be rectangular: kept as text, and cast when picked.
        tags = array_of(pools.tags, "text")
        customers = f"""
            INSERT INTO public.customers (id, email, name, tier, balance, points, tags, preferences, portrait, about,
                                          birthday, created_at, seen_at)
            SELECT g, 'c' || g || '@example.com', {names}[1 + (h & 63)],
                   (ARRAY[NULL, 'bronze', 'bronze', 'bronze', 'silver', 'silver', 'gold', 'très chic']
                      ::public.customer_tier[])[1 + ((h >> 6) & 7)],
                   (((h >> 9) & 16777215) - 1000000)::numeric * 0.01, (h >> 5) & 65535,
                   CASE WHEN (h >> 40) & 7 > 0 THEN {tags}[1 + ((h >> 43) & 15)]::text[] END,
                   CASE WHEN (h >> 50) & 3 > 0 THEN {preferences}[1 + ((h >> 52) & 15)] END,
                   CASE WHEN g = %(lo)s::bigint THEN %(portrait)s::bytea END,
                   CASE WHEN g = %(hi)s::bigint THEN %(about)s::text
                        WHEN (h >> 33) & 3 = 0 THEN {notes}[1 + ((h >> 36) & 7)] END,
                   CASE WHEN (h >> 48) & 7 > 0 THEN date '1930-01-01' + ((h >> 20) & 32767)::int END,
                   %(at)s::timestamptz + ((h >> 10) & 1048575) * interval '1 microsecond',
                   CASE WHEN (h >> 55) & 1 = 0 THEN %(at)s::timestamptz END
            {rows}"""
        orders = f"""
            INSERT INTO public.orders (id, customer_id, reference, status, total, currency, note, shipping, labels,
                                       placed_at)
            SELECT g, 1 + ((((((h >> 8) & 65535) * ((h >> 24) & 65535)) >> 16) * %(hot)s::bigint) >> 16),
                   md5(h::text)::uuid, 'placed',
                   ((h >> 12) & 1048575)::numeric * 0.01,
                   (ARRAY['EUR', 'EUR', 'USD', 'JPY'])[1 + ((h >> 32) & 3)],
                   CASE WHEN (h >> 34) & 3 = 0 THEN {notes}[1 + ((h >> 36) & 7)] END,
                   CASE WHEN (h >> 40) & 3 = 0 THEN {shipping}[1 + ((h >> 42) & 7)] END,
                   CASE WHEN (h >> 45) & 3 = 0 THEN ARRAY[((h >> 47) & 255)::int, NULL, -(h & 65535)::int] END,
                   %(at)s::timestamptz + (h & 1048575) * interval '1 microsecond'
            {rows}"""
        items = f"""
            INSERT INTO public.order_items (id, order_id, sku, title, quantity, unit_price, discount, gift)
            SELECT g,
                   %(order)s::bigint
                     + (g - %(lo)s::bigint) * %(orders)s::bigint / (%(hi)s::bigint - %(lo)s::bigint + 1),
                   'SKU-' || ((h >> 3) & 16383), {titles}[1 + (h & 63)], 1 + ((h >> 17) & 7),
                   ((h >> 20) & 262143)::numeric * 0.01,
                   CASE WHEN (h >> 40) & 3 = 0 THEN ((h >> 42) & 4095)::numeric * 0.0001 END, (h >> 54) & 15 = 0
            {rows}"""
        payments = f"""
            INSERT INTO public.payments (id, order_id, method, amount, fee, settled, reference, authorisation,
                                         description, received_on)
            SELECT g, %(order)s::bigint + g - %(lo)s::bigint,
                   (ARRAY['card', 'card', 'wallet', 'transfer'])[1 + (h & 3)], ((h >> 12) & 1048575)::numeric * 0.01,
                   CASE WHEN (h >> 40) & 3 > 0 THEN ((h >> 20) & 65535) / 7e3 END,
                   CASE WHEN (h >> 44) & 1 = 0 THEN false END, md5(h::text)::uuid,
                   CASE WHEN (h >> 46) & 1 = 0 THEN int8send(h) END,
                   {titles}[1 + ((h >> 4) & 63)], (%(at)s::timestamptz AT TIME ZONE 'UTC')::date
            {rows}"""
        return cls(customers, orders, items, payments)
