"""Plans of migrations from DDL alone. Whether they come true is shown in tests/stack/test_schemas_migrations.py."""

from __future__ import annotations

import json

import pytest

from cdcpipe.errors import ConfigError
from cdcpipe.schemas.catalog import Catalog
from cdcpipe.schemas.compatibility import Mode
from cdcpipe.schemas.migration import Plan, plan_evolution
from cdcpipe.schemas.plan_text import to_json, to_markdown, to_text

ORDERS = """
CREATE TYPE mood AS ENUM ('sad');
CREATE TABLE orders (id int PRIMARY KEY, amount double precision, note text NOT NULL, m mood, n int);
CREATE PUBLICATION cdc FOR TABLE orders;
"""


def plan(sql: str, mode: Mode = Mode.FULL_TRANSITIVE, ddl: str = ORDERS, publication: str | None = None) -> Plan:
    return plan_evolution(Catalog.from_ddl(ddl), sql, mode=mode, publication=publication)


@pytest.mark.parametrize(
    ("sql", "mode", "outcome"),
    [
        ("ALTER TABLE orders ADD c text", Mode.FULL_TRANSITIVE, "new-version"),
        ("ALTER TABLE orders ADD c text NOT NULL", Mode.FULL_TRANSITIVE, "refused"),
        ("ALTER TABLE orders ADD c text NOT NULL", Mode.FORWARD, "new-version"),
        ("ALTER TABLE orders ADD c text NOT NULL DEFAULT ''", Mode.FULL_TRANSITIVE, "new-version"),
        ("ALTER TABLE orders DROP note", Mode.BACKWARD, "new-version"),
        ("ALTER TABLE orders DROP note", Mode.FORWARD, "refused"),
        ("ALTER TABLE orders DROP amount", Mode.FULL_TRANSITIVE, "new-version"),
        ("ALTER TABLE orders ALTER n TYPE bigint", Mode.BACKWARD, "new-version"),
        ("ALTER TABLE orders ALTER n TYPE bigint", Mode.FULL, "refused"),
        ("ALTER TABLE orders ALTER note TYPE varchar(10)", Mode.FULL, "unchanged"),
        ("ALTER TYPE mood ADD VALUE 'ok'", Mode.FULL_TRANSITIVE, "new-version"),
        ("CREATE INDEX ON orders (n)", Mode.FULL, "unchanged"),
        ("DROP TABLE orders", Mode.FULL, "gone"),
        ("ALTER TABLE orders RENAME TO purchases", Mode.FULL, "new-subject"),
    ],
)
def test_outcome_of_one_statement(sql: str, mode: Mode, outcome: str) -> None:
    found = plan(sql, mode)
    assert [table.value.outcome for table in found.tables] == [outcome]
    assert found.tables[0].refused is (outcome == "refused")
    assert found.ok is (outcome != "refused" and not any(change.harmful for change in found.tables[0].archive))


def test_states_between_statements_count_unless_a_transaction_hides_them() -> None:
    sql = "ALTER TABLE orders ADD c int NOT NULL; ALTER TABLE orders ALTER c SET DEFAULT 1;"
    assert plan(sql).tables[0].refused
    hidden = plan(f"BEGIN; {sql} COMMIT;").tables[0]
    assert not hidden.refused
    assert len(hidden.value.versions) == 1


def test_a_safer_way_is_given_and_is_itself_accepted() -> None:
    refused = plan("ALTER TABLE orders ALTER n SET NOT NULL")
    assert refused.tables[0].refused
    assert any("CHECK (n IS NOT NULL) NOT VALID" in line for line in refused.safer)
    safer = plan("\n".join(refused.safer))
    assert safer.ok
    assert safer.tables[0].value.outcome == "unchanged"


def test_locks_rewrites_and_scans_are_told() -> None:
    steps = plan(
        "ALTER TABLE orders ADD c int DEFAULT 1; ALTER TABLE orders ALTER n TYPE text; "
        "CREATE INDEX CONCURRENTLY ON orders (n);"
        "ALTER TABLE orders ALTER amount SET NOT NULL; ALTER TABLE orders ADD d uuid DEFAULT gen_random_uuid()"
    ).steps
    assert [step.lock for step in steps] == [
        "ACCESS EXCLUSIVE", "ACCESS EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE", "ACCESS EXCLUSIVE",
    ]  # fmt: skip
    assert [any(e.rewrites for e in step.effects) for step in steps] == [False, True, False, False, True]
    assert [any(e.scans for e in step.effects) for step in steps] == [False, False, True, True, False]


def test_a_validated_check_spares_the_scan_of_set_not_null() -> None:
    sql = "ALTER TABLE orders ADD CHECK (n IS NOT NULL); ALTER TABLE orders ALTER n SET NOT NULL"
    assert not plan(sql).steps[1].effects[0].scans


def test_known_races_are_told() -> None:
    codes = {h.code for _, h in plan("ALTER TYPE mood ADD VALUE 'ok'; ALTER TABLE orders DROP n").hazards}
    assert {"D11", "D19"} <= codes
    new = plan("CREATE TABLE extra (id int PRIMARY KEY)", publication="cdc")
    assert "D12" in {h.code for _, h in new.hazards}
    assert any("aren't captured" in note for note in new.tables[0].notes)
    assert "D11" in {h.code for _, h in plan("ALTER PUBLICATION cdc DROP TABLE orders", publication="cdc").hazards}


@pytest.mark.parametrize("sql", ["ADD r float8 DEFAULT 'NaN'", "ADD r real DEFAULT '-Infinity'::real"])
def test_a_default_that_no_avro_schema_can_hold_is_told(sql: str) -> None:
    codes = {h.code for _, h in plan(f"ALTER TABLE orders {sql}").hazards}
    assert "default-not-in-avro" in codes
    for fine in ("r float8 DEFAULT 1", "r float8 NOT NULL DEFAULT 'NaN'"):
        assert "default-not-in-avro" not in {h.code for _, h in plan(f"ALTER TABLE orders ADD {fine}").hazards}


@pytest.mark.parametrize("sql", ["ADD r jsonb DEFAULT '{}'", "ADD r jsonb DEFAULT jsonb_build_object()"])
def test_a_default_that_apicurio_mistakes_is_told(sql: str) -> None:
    assert "default-not-in-apicurio" in {h.code for _, h in plan(f"ALTER TABLE orders {sql}").hazards}
    fine = plan(
        "ALTER TABLE orders ADD r jsonb DEFAULT '{\"a\": 1}', ADD s int DEFAULT 1, ADD u text DEFAULT now()::text"
    )
    assert "default-not-in-apicurio" not in {h.code for _, h in fine.hazards}


def test_a_change_of_the_key_is_told() -> None:
    found = plan(
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ADD PRIMARY KEY (id, note)"
    ).tables[0]
    assert any("key changes from (id) to (id, note)" in note for note in found.notes)
    assert found.key.outcome == "refused"


def test_the_archive_is_told_what_is_rounded() -> None:
    found = plan("ALTER TABLE t ALTER n TYPE numeric(14,4)", ddl="CREATE TABLE t (id int PRIMARY KEY, n numeric(12,2))")
    assert not found.ok
    assert [(change.action, change.column) for change in found.tables[0].archive] == [("lossy", "n")]
    assert "rounded to 2 digits" in found.tables[0].archive[0].text


@pytest.mark.parametrize(
    ("old", "new", "action"),
    [
        ("int", "bigint", "widen"),
        ("real", "double precision", "widen"),
        ("bigint", "int", "convert"),
        ("double precision", "numeric(12,2)", "lossy"),
        ("text", "int", "convert"),
        ("int", "text", "fragile"),
        ("timestamp(3)", "timestamp(6)", "lossy"),
        ("int", "int[]", "fragile"),
    ],
)
def test_the_archive_of_a_changed_type(old: str, new: str, action: str) -> None:
    found = plan(f"ALTER TABLE t ALTER n TYPE {new}", Mode.NONE, ddl=f"CREATE TABLE t (id int PRIMARY KEY, n {old})")
    assert [change.action for change in found.tables[0].archive] == [action]


def test_partitions_follow_their_parent() -> None:
    ddl = "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
    ddl += "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);"
    found = plan("ALTER TABLE p ADD c text", ddl=ddl)
    assert {table.name: table.value.outcome for table in found.tables} == {
        "public.p": "new-version",
        "public.p1": "new-version",
    }


def test_history_is_what_counts_when_it_is_known() -> None:
    catalog = Catalog.from_ddl("CREATE TABLE t (id int PRIMARY KEY, a text)")
    first = plan_evolution(catalog, "ALTER TABLE t ADD b text").tables[0].value.versions[0]
    again = plan_evolution(catalog, "ALTER TABLE t ADD b text", history=lambda subject: [json.dumps(first)])
    assert again.tables[0].value.outcome == "unchanged"
    empty = plan_evolution(catalog, "ALTER TABLE t ADD b text NOT NULL", history=lambda subject: [])
    assert empty.tables[0].value.outcome == "new-subject"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("ALTER TABLE nowhere ADD c int", "no table `nowhere`"),
        ("ALTER TABLE orders DROP nothing", "no column `nothing`"),
        ("ALTER TABLE\n\norders ADD", "not valid PostgreSQL"),
    ],
)
def test_a_wrong_migration_is_refused(sql: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(sql)


def test_text_json_and_markdown_say_the_same() -> None:
    found = plan("ALTER TABLE orders ALTER amount TYPE numeric(12,2)")
    sentence = "public.orders.amount: double can't be read as decimal(12,2)"
    assert sentence in to_text(found)
    assert sentence in to_markdown(found)
    content = json.loads(json.dumps(to_json(found)))
    assert content["ok"] is False
    conflicts = content["tables"][0]["value"]["conflicts"]
    assert conflicts["BACKWARD"][0]["sentence"].startswith(sentence)
    assert "FORWARD" in conflicts
    assert "NONE" not in conflicts
