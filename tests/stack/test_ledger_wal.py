"""The wal ledger against a real PostgreSQL."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdcpipe.errors import EvidenceError, PostgresError
from cdcpipe.ledger import canonical
from cdcpipe.ledger.canonical import Modes
from cdcpipe.ledger.catalogue import Catalogue, Type
from cdcpipe.ledger.store import Ledger
from cdcpipe.ledger.wal import WalWitness
from cdcpipe.stack.endpoints import PostgresEndpoint, Role, Secret

pytestmark = pytest.mark.postgres

Statements = Callable[[psycopg.Connection[Any]], None]


@pytest.fixture(scope="module")
def database(postgres: PostgresEndpoint) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute(
            """
            CREATE TYPE mood AS ENUM ('sad', 'ok');
            CREATE DOMAIN short AS numeric(6, 2);
            CREATE TABLE item (id bigint PRIMARY KEY, name text, price numeric(12, 4), at timestamptz, big text);
            ALTER TABLE item REPLICA IDENTITY FULL;
            CREATE TABLE narrow (a int, b text, note text, big text, PRIMARY KEY (b, a));
            CREATE TABLE keyless (x int, y text); ALTER TABLE keyless REPLICA IDENTITY FULL;
            CREATE TABLE other (id int PRIMARY KEY);
            CREATE TABLE zoo (id int PRIMARY KEY, m mood, p short, ar int[], tx text[], pl polygon, js json, j jsonb);
            CREATE PUBLICATION cdc FOR TABLE item, narrow, keyless, zoo;
            GRANT USAGE ON SCHEMA public TO PUBLIC;
            """
        )
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC")
        yield connection


Read = Callable[..., Ledger]


@pytest.fixture
def read(postgres: PostgresEndpoint, database: psycopg.Connection[Any], tmp_path: Path) -> Read:
    def run(*statements: str | Statements, **options: Any) -> Ledger:
        with WalWitness(postgres, tmp_path / "wal", publication="cdc", **options) as witness:
            for statement in statements:
                if callable(statement):
                    statement(database)
                else:
                    database.execute(statement)
            return witness.stop()

    return run


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ledger.read().to_pylist()
    return found


def digest(**values: str) -> bytes:
    return hashlib.md5(canonical.image(values).encode()).digest()


def number(text: str) -> str:
    return canonical.encode("n", text)


def text(value: str) -> str:
    return canonical.encode("s", value)


def test_each_committed_change_is_one_row_with_its_place_in_its_transaction(read: Read) -> None:
    ledger = read(
        "INSERT INTO item VALUES (1, 'one', 1.50), (2, 'two', 2)",
        "BEGIN; INSERT INTO item VALUES (9, 'never'); ROLLBACK",
        "INSERT INTO other VALUES (1)",
        "BEGIN; UPDATE item SET name = 'uno' WHERE id = 1; DELETE FROM item WHERE id = 2; INSERT INTO keyless "
        "VALUES (7, ''); COMMIT",
    )
    assert ledger.manifest.complete
    assert [(r["table"], r["op"], r["seq"]) for r in rows(ledger)] == [
        ("public.item", "c", 1),
        ("public.item", "c", 2),
        ("public.item", "u", 1),
        ("public.item", "d", 2),
        ("public.keyless", "c", 3),
    ]
    first, second, update, delete, keyless = rows(ledger)
    one = digest(id=number("1"), name=text("one"), price=number("1.5"))
    assert (first["before"], first["after"]) == (None, one)
    assert (update["before"], update["after"]) == (one, digest(id=number("1"), name=text("uno"), price=number("1.5")))
    assert (delete["before"], delete["after"]) == (second["after"], None)
    assert first["key"] == update["key"] == canonical.image({"id": number("1")}).encode()
    assert keyless["key"] is None
    assert keyless["after"] == digest(x=number("7"), y=text(""))
    assert first["xid"] == second["xid"] < update["xid"] == delete["xid"]
    assert first["lsn"] < first["commit_lsn"] < update["lsn"]
    transactions = ledger.read("transactions").to_pylist()
    assert [(t["xid"], t["event_count"]) for t in transactions] == [(first["xid"], 2), (update["xid"], 3)]
    assert all(r["unknown"] is None for r in rows(ledger))


def test_a_changed_key_is_a_delete_and_a_create_with_either_replica_identity(read: Read) -> None:
    ledger = read(
        "INSERT INTO item VALUES (100, 'a'); INSERT INTO narrow VALUES (1, 'k', 'n')",
        "UPDATE item SET id = 101 WHERE id = 100",
        "UPDATE narrow SET a = 2 WHERE a = 1",
        "UPDATE narrow SET note = 'm' WHERE a = 2",
        "DELETE FROM narrow WHERE a = 2",
    )
    got = [(r["table"], r["op"], r["seq"], r["key"]) for r in rows(ledger)]
    item = [canonical.image({"id": number(n)}).encode() for n in ("100", "101")]
    narrow = [canonical.image({"a": number(n), "b": text("k")}).encode() for n in ("1", "2")]
    assert got == [
        ("public.item", "c", 1, item[0]),
        ("public.narrow", "c", 2, narrow[0]),
        ("public.item", "d", 1, item[0]),
        ("public.item", "c", 2, item[1]),
        ("public.narrow", "d", 1, narrow[0]),
        ("public.narrow", "c", 2, narrow[1]),
        ("public.narrow", "u", 1, narrow[1]),
        ("public.narrow", "d", 1, narrow[1]),
    ]
    by_place = rows(ledger)
    assert by_place[2]["before"] == by_place[0]["after"]
    assert by_place[6]["before"] is None, "REPLICA IDENTITY DEFAULT sends no old row"
    assert by_place[7]["before"] == digest(a=number("2"), b=text("k"))


def test_unchanged_toast_is_unknown_unless_the_old_row_tells(read: Read) -> None:
    big = "'' || (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 400) g)"
    ledger = read(
        f"INSERT INTO item VALUES (200, 'a', 1, NULL, {big}); INSERT INTO narrow VALUES (5, 't', 'n', {big})",
        "UPDATE item SET name = 'b' WHERE id = 200",
        "UPDATE narrow SET note = 'm' WHERE a = 5",
    )
    value = "".join(hashlib.md5(str(g).encode()).hexdigest() for g in range(1, 401))
    *_, full, narrow = rows(ledger)
    assert full["unknown"] is None
    assert full["after"] == digest(id=number("200"), name=text("b"), price=number("1"), big=text(value))
    assert narrow["unknown"] == ["after.big: toast"]
    assert narrow["after"] == digest(a=number("5"), b=text("t"), note=text("m"), big="?")


def test_truncates_and_messages_are_rows_without_key(read: Read) -> None:
    ledger = read(
        "BEGIN; INSERT INTO item VALUES (300); TRUNCATE item, narrow, other; INSERT INTO item VALUES (301); COMMIT",
        "SELECT pg_logical_emit_message(false, 'audit', 'now')",
        "SELECT pg_logical_emit_message(true, 'audit', 'then')",
    )
    got = [(r["table"], r["op"], r["seq"], r["key"] is None) for r in rows(ledger)]
    assert sorted(got[1:3]) == [("public.item", "t", 2, True), ("public.narrow", "t", 3, True)] or sorted(got[1:3]) == [
        ("public.item", "t", 3, True),
        ("public.narrow", "t", 2, True),
    ]
    assert got[0] == ("public.item", "c", 1, False)
    assert got[3] == ("public.item", "c", 4, False)
    loose, bound = rows(ledger)[4:]
    assert (loose["op"], loose["xid"], loose["seq"]) == ("m", None, None)
    assert (bound["op"], bound["seq"]) == ("m", 1)
    assert bound["xid"] is not None
    assert loose["after"] != bound["after"]


def test_a_transaction_larger_than_a_batch_and_a_chunk_is_counted_through(read: Read) -> None:
    ledger = read(
        "INSERT INTO keyless SELECT g, 'x' FROM generate_series(1, 5000) g",
        "INSERT INTO keyless VALUES (0, 'after')",
        batch_changes=300,
        chunk_messages=700,
    )
    got = rows(ledger)
    assert [r["seq"] for r in got] == [*range(1, 5001), 1]
    assert len({r["xid"] for r in got[:5000]}) == 1
    assert ledger.read("transactions")["event_count"].to_pylist() == [5000, 1]


def test_a_type_without_a_canonical_form_is_named_and_left_out(read: Read) -> None:
    ledger = read(
        "INSERT INTO zoo VALUES (1, 'ok', 3.10, '{1,NULL}', ARRAY['a\"b', NULL, 'NULL', ''], '((0,0),(1,1))', "
        '\'{"b": 1.0, "aa":[ ]}\', \'{"b": 1.0, "aa":[ ]}\')'
    )
    (row,) = rows(ledger)
    assert row["unknown"] == ["after.pl: unsupported polygon"]
    modes = Modes()
    json_text = '{"b": 1.0, "aa": []}'
    assert row["after"] == digest(
        id=number("1"),
        m=text("ok"),
        p=number("3.1"),
        ar=canonical.encode("a", number("1") + "~"),
        tx=canonical.encode("a", text('a"b') + "~" + text("NULL") + text("")),
        js=canonical.encode("j", json_text),
        j=canonical.encode("j", json_text),
    )
    assert canonical.family_of(Type("polygon"), modes) is None


def test_a_column_added_or_retyped_under_way_is_read_as_it_was_at_each_change(
    read: Read, database: psycopg.Connection[Any]
) -> None:
    database.execute("CREATE TABLE moving (id int PRIMARY KEY, v int); ALTER PUBLICATION cdc ADD TABLE moving")
    ledger = read(
        "INSERT INTO moving VALUES (1, 5)",
        "ALTER TABLE moving ADD COLUMN w text",
        "INSERT INTO moving VALUES (2, 5, 'w')",
        "ALTER TABLE moving ALTER v TYPE text",
        "INSERT INTO moving VALUES (3, '05', NULL)",
        "ALTER TABLE moving DROP COLUMN w",
        "INSERT INTO moving VALUES (4, '5')",
    )
    got = [r["after"] for r in rows(ledger) if r["table"] == "public.moving" and r["op"] == "c"]
    assert got == [
        digest(id=number("1"), v=number("5")),
        digest(id=number("2"), v=number("5"), w=text("w")),
        digest(id=number("3"), v=text("05")),
        digest(id=number("4"), v=text("5")),
    ]


def test_images_can_be_kept_and_looked_up_by_their_hash(read: Read) -> None:
    ledger = read("INSERT INTO narrow VALUES (77, 'i', 'kept')", images=True)
    (row,) = rows(ledger)
    kept = {each["hash"]: each["image"] for each in ledger.read("images").to_pylist()}
    assert "kept" in kept[row["after"]]
    assert hashlib.md5(kept[row["after"]].encode()).digest() == row["after"]


def test_a_temporary_slot_is_gone_with_its_reader_and_a_permanent_one_goes_on(
    postgres: PostgresEndpoint, database: psycopg.Connection[Any], tmp_path: Path
) -> None:
    def slots() -> set[str]:
        return {row[0] for row in database.execute("SELECT slot_name FROM pg_replication_slots")}

    with WalWitness(postgres, tmp_path / "a", publication="cdc") as witness:
        assert witness.slot in slots()
        witness.stop()
    assert slots() == set()

    with WalWitness(postgres, tmp_path / "b", publication="cdc", slot="kept", temporary=False) as witness:
        database.execute("INSERT INTO keyless VALUES (1, 'first')")
        first = witness.stop()
    database.execute("INSERT INTO keyless VALUES (2, 'between')")
    with WalWitness(postgres, tmp_path / "c", publication="cdc", slot="kept", temporary=False) as witness:
        database.execute("INSERT INTO keyless VALUES (3, 'second')")
        second = witness.stop()
    witness.drop_slot()
    assert slots() == set()
    assert [len(first.read()), len(second.read())] == [1, 2]
    assert second.manifest.slots[0].begin_lsn >= first.manifest.slots[0].begin_lsn


def test_a_reader_whose_session_is_ended_gives_a_ledger_that_says_it_is_not_complete(
    postgres: PostgresEndpoint, database: psycopg.Connection[Any], tmp_path: Path
) -> None:
    with WalWitness(postgres, tmp_path / "wal", publication="cdc") as witness:
        with psycopg.connect(postgres.conninfo("admin"), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", [witness.slot]
            )
        database.execute("INSERT INTO keyless VALUES (1, 'unseen')")
        ledger = witness.stop()
    assert not ledger.manifest.complete
    assert "could be read only up to" in ledger.manifest.reasons[0]
    assert Ledger.open(ledger.folder).manifest == ledger.manifest


def test_refused_credentials_and_a_missing_publication_are_told_apart(
    postgres: PostgresEndpoint, tmp_path: Path, database: psycopg.Connection[Any]
) -> None:
    wrong = PostgresEndpoint(
        postgres.host,
        postgres.port,
        postgres.database,
        {"witness": Role(postgres.roles["witness"].name, Secret("not it"))},
    )
    with pytest.raises(PostgresError, match="can't connect to") as refused:
        WalWitness(wrong, tmp_path / "a", publication="cdc").start()
    assert "not it" not in str(refused.value)
    with pytest.raises(EvidenceError, match="no publication `nowhere`"):
        WalWitness(postgres, tmp_path / "b", publication="nowhere").start()
    with pytest.raises(PostgresError, match="can't open the replication slot"):
        WalWitness(postgres, tmp_path / "c", publication="cdc", role="owner").start()


def test_a_folder_without_a_manifest_or_with_rows_missing_is_no_ledger(read: Read) -> None:
    ledger = read("INSERT INTO keyless VALUES (1, 'x')")
    assert Ledger.open(ledger.folder) == ledger
    ledger.files()[0].unlink()
    with pytest.raises(EvidenceError, match="should hold 1 rows of `changes`, but has 0"):
        Ledger.open(ledger.folder)
    (ledger.folder / "manifest.json").unlink()
    with pytest.raises(EvidenceError, match="no finished ledger"):
        Ledger.open(ledger.folder)


def test_the_catalogue_survives_a_manifest(database: psycopg.Connection[Any]) -> None:
    catalogue = Catalogue.read(database, publication="cdc")
    assert Catalogue.from_json(catalogue.to_json(), catalogue.xid_next) == catalogue
    table = catalogue.tables["public.narrow"]
    assert (table.key, table.identity, table.identity_columns) == (("a", "b"), "default", ("a", "b"))
    assert catalogue.tables["public.zoo"].type("p") == Type("numeric", "base", (6 << 16 | 2) + 4)
