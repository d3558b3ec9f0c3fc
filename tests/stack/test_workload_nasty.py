"""The corpus says of each value how PostgreSQL prints it: the server itself is the judge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from cdcpipe.errors import PostgresError, UsageError
from cdcpipe.stack.endpoints import PostgresEndpoint, Role, Secret
from cdcpipe.workload.nasty import CORPUS, NO_PYTHON, TAGS, Nasty, NastyValue

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def connection(postgres: PostgresEndpoint) -> Iterator[psycopg.Connection]:
    Nasty().create(postgres)  # and with it the types of our own
    with psycopg.connect(postgres.conninfo("owner"), autocommit=True) as connection:
        for setting in ("timezone = 'UTC'", "datestyle = 'ISO'", "bytea_output = 'hex'", "intervalstyle = 'postgres'"):
            connection.execute(f"SET {setting}")
        yield connection


def _name(value: NastyValue) -> str:
    return f"{value.type}-{value.text[:30]!a}"


@pytest.mark.parametrize("value", CORPUS, ids=_name)
def test_the_server_prints_and_gives_what_the_corpus_says(connection: psycopg.Connection, value: NastyValue) -> None:
    # a composite's cast to text, and char(n)'s, are not what the server sends: its output function is
    with connection.cursor() as cursor, cursor.copy(f"COPY (SELECT {value.sql}) TO STDOUT (FORMAT csv)") as copy:
        printed = b"".join(bytes(block) for block in copy).decode()[:-1]
    if printed.startswith('"'):
        printed = printed[1:-1].replace('""', '"')
    assert printed == value.text
    if value.python is not NO_PYTHON:
        # as text, a real reads as the double that looks like it
        row = connection.execute(f"SELECT {value.sql}", binary=value.type == "real").fetchone()
        assert row is not None
        assert _same(row[0], value.python)


def _same(got: object, expected: object) -> bool:
    if type(got) is not type(expected):
        return False
    if isinstance(got, float) and isinstance(expected, float):
        both_nan = math.isnan(got) and math.isnan(expected)
        return both_nan or (got == expected and math.copysign(1, got) == math.copysign(1, expected))
    return repr(got) == repr(expected) or got == expected


def test_values_that_say_so_are_stored_out_of_line(postgres: PostgresEndpoint) -> None:
    Nasty().create(postgres)
    with psycopg.connect(postgres.conninfo("owner"), autocommit=True) as connection:
        nasty = Nasty()
        for row in range(nasty.rows):
            connection.execute(nasty.insert(row))
        missing = []
        for type_, values in nasty.columns.items():
            for number, value in enumerate(values, 1):
                if "toast" not in value.tags or len(set(value.text)) == 1:
                    continue
                sql = f"SELECT pg_column_toast_chunk_id({nasty.column(type_)}) FROM public.nasty WHERE id = {number}"
                found = connection.execute(sql).fetchone()
                if found is None or found[0] is None:
                    missing.append(_name(value))
    assert missing == []


def test_the_writer_makes_as_many_changes_as_it_says(postgres: PostgresEndpoint) -> None:
    nasty = Nasty()
    nasty.create(postgres)
    with psycopg.connect(postgres.conninfo("witness"), autocommit=True) as witness:
        witness.execute("SELECT pg_create_logical_replication_slot('nasty', 'test_decoding', true)")
        claimed = nasty.write(postgres)
        changes = witness.execute("SELECT data FROM pg_logical_slot_get_changes('nasty', NULL, NULL)").fetchall()
    verbs = Counter(line.split(": ")[1] for (line,) in changes if line.startswith("table public.nasty:"))
    assert claimed == {"c": verbs["INSERT"], "u": verbs["UPDATE"], "d": verbs["DELETE"]}


def test_values_are_left_out_by_type_and_tag() -> None:
    kept = Nasty(types=["date", "numeric"], without=["infinity", "bc"]).columns
    assert set(kept) == {"date", "numeric"}
    assert not any("infinity" in value.text or "BC" in value.text for value in kept["date"])
    assert len(kept["date"]) > 5


def test_a_tag_or_type_that_the_corpus_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="`infinite`"):
        Nasty(without=["infinite"])
    with pytest.raises(UsageError, match="`blob`"):
        Nasty(types=["blob"])


def test_every_tag_is_explained_and_used() -> None:
    assert {tag for value in CORPUS for tag in value.tags} == set(TAGS)


def test_a_server_that_is_not_there_is_told_as_such() -> None:
    nowhere = PostgresEndpoint("127.0.0.1", 1, "x", {"owner": Role("x", Secret("hidden-one"))})
    with pytest.raises(PostgresError) as caught:
        Nasty().create(nowhere)
    assert "hidden-one" not in str(caught.value)
