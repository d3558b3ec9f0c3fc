"""Debezium's envelopes, as columns, to the rows of a ledger: the same code for Avro, JSON and Parquet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdcpipe.errors import EvidenceError
from cdcpipe.ledger.avro import Wire
from cdcpipe.ledger.canonical import Modes, family_of
from cdcpipe.ledger.catalogue import Catalogue, Table, Type
from cdcpipe.ledger.change import IMAGES, SCHEMA
from cdcpipe.ledger.columns import Cell, Engine, image_sql, literal, strip_sql, unknown_sql
from cdcpipe.ledger.rows import plain_hashes, widen_column
from cdcpipe.ledger.wires import family_of_wire, payload_array, toast_mask, wire_sql

__all__ = ["EnvelopeReader", "Envelopes"]

WireOf = Callable[[str, str, pa.DataType, Type | None], Wire]
"""The wire of a column: (`before`, `after` or `key`; its name; its Arrow type; its PostgreSQL type)."""


@dataclass(frozen=True, slots=True)
class Envelopes:
    """Records of one schema. `records` has the envelope's fields as columns; `place` the columns topic, partition,
    offset and object of a ledger (those that are known); `key` the fields of the records' keys, None without.
    """

    records: pa.Table
    place: pa.Table
    wire_of: WireOf
    key: pa.Table | None = None


@dataclass(slots=True)
class _Frame:
    """Columns for DuckDB, and what SQL makes of them."""

    arrays: dict[str, pa.Array | pa.ChunkedArray]
    payloads: list[str] = field(default_factory=list)
    unsupported: dict[str, list[str]] = field(default_factory=lambda: {"before": [], "after": []})


class EnvelopeReader:
    """Makes ledger rows of envelopes. `catalogue` gives the types of the columns and the keys."""

    def __init__(self, engine: Engine, catalogue: Catalogue, modes: Modes, *, images: bool = False) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._modes = modes
        self._images = images

    def rows(self, envelopes: Envelopes) -> dict[str, pa.Table]:
        """The rows by table of the ledger: `changes`, and `images` when they are kept."""
        records = envelopes.records
        if not {"op", "source"} <= set(records.column_names):
            raise EvidenceError(
                f"records of {_topics(envelopes)} are not Debezium envelopes: their fields are "
                f"{', '.join(records.column_names)}",
                hint="archive the whole envelope; a flattened record doesn't say which transaction made it",
            )
        source = _struct(records["source"])
        tables = pc.binary_join_element_wise(
            pc.struct_field(source, "schema").cast(pa.string()), pc.struct_field(source, "table").cast(pa.string()), "."
        )
        if "message" in records.column_names:
            tables = pc.if_else(pc.equal(tables, tables), "", "")
        found = pc.unique(tables).to_pylist()
        if len(found) == 1:
            return self._rows(envelopes, str(found[0]))
        parts: list[dict[str, pa.Table]] = []
        for each in found:
            chosen = pc.equal(tables, each)
            parts.append(
                self._rows(
                    Envelopes(
                        records.filter(chosen),
                        envelopes.place.filter(chosen),
                        envelopes.wire_of,
                        envelopes.key.filter(chosen) if envelopes.key is not None else None,
                    ),
                    str(each),
                )
            )
        names = {label for part in parts for label in part}
        return {label: pa.concat_tables([part[label] for part in parts if label in part]) for label in names}

    def _rows(self, envelopes: Envelopes, table_name: str) -> dict[str, pa.Table]:
        table = self._catalogue.tables.get(table_name)
        records = envelopes.records
        frame = _Frame(_common(envelopes, self._catalogue.xid_next))
        after = self._side(frame, envelopes, "after", table)
        before = self._side(frame, envelopes, "before", table)
        if table is not None and table.identity != "full":
            before = [cell for cell in before if cell.name in table.identity_columns]
        key = self._key(frame, envelopes, table, after, before)
        after_image = image_sql(after)
        if "message" in records.column_names:
            after_image = self._message(frame, records)
        toasts = [(cell.toast, f"after.{cell.name}: toast") for cell in after if cell.toast]
        toasts += [(cell.toast, f"before.{cell.name}: toast") for cell in before if cell.toast]
        unknown = toasts + [
            (flag, f"{side}.{text}")
            for side, flag in (("after", "has_after"), ("before", "has_before"))
            for text in frame.unsupported[side]
        ]
        inner = ", ".join(["*", *frame.payloads])
        middle = (
            f"SELECT *, CASE WHEN has_after THEN {after_image} END AS after_image, "
            f"CASE WHEN has_before THEN {image_sql(before)} END AS before_image, "
            f"{key} AS key_image, {unknown_sql(unknown)} AS unknown FROM (SELECT {inner} FROM frame)"
        )
        kept = ", after_image, before_image" if self._images else ""
        sql = f"""
            SELECT {literal(table_name)} AS "table", CASE WHEN op <> 'r' THEN xid END AS xid,
                   CASE WHEN op <> 'r' THEN seq END AS seq, NULL::UBIGINT AS commit_lsn, lsn, op,
                   CASE WHEN op NOT IN ('t', 'm') THEN key_image END AS key,
                   md5_number(before_image) AS before, md5_number(after_image) AS after,
                   topic, "partition", "offset", object, committed_at, unknown{kept}
            FROM ({middle})
        """
        try:
            rows = plain_hashes(self._engine.query(sql, frame=pa.table(frame.arrays)))
        except duckdb.Error as error:
            raise EvidenceError(f"a value of {table_name} has no canonical form: {error}") from error
        built = {"changes": rows.select(SCHEMA.names).cast(SCHEMA)}
        if self._images:
            built["images"] = self._engine.query(
                "SELECT DISTINCT hash, image FROM (SELECT after AS hash, after_image AS image FROM rows "
                "UNION ALL SELECT before, before_image FROM rows) WHERE hash IS NOT NULL",
                rows=rows,
            ).cast(IMAGES)
        return built

    def _side(self, frame: _Frame, envelopes: Envelopes, side: str, table: Table | None) -> list[Cell]:
        records = envelopes.records
        if side not in records.column_names or not pa.types.is_struct(records[side].type):
            frame.arrays[f"has_{side}"] = pa.array([False] * records.num_rows)
            return []
        column = _struct(records[side])
        frame.arrays[f"has_{side}"] = column.is_valid()
        if column.null_count == len(column):
            return []
        return self._cells(frame, column, side, table, envelopes.wire_of)

    def _cells(
        self, frame: _Frame, column: pa.StructArray, side: str, table: Table | None, wire_of: WireOf
    ) -> list[Cell]:
        missing = column.null_count
        cells: list[Cell] = []
        unsupported: list[str] = []
        for place, each in enumerate(column.type):
            type_ = table.type(each.name) if table is not None else None
            wire = wire_of(side, each.name, each.type, type_)
            family = family_of(type_, self._modes) if type_ is not None else family_of_wire(wire)
            if family is None:
                if type_ is None:
                    unsupported.append(f"{each.name}: unsupported {wire.name or wire.physical}")
                continue
            # `flatten` and not `field`: a field's own buffers don't know where the record is null.
            values = pc.struct_field(column, each.name)
            if values.null_count == len(values):
                continue
            cells.append(self._cell(frame, f"{side[0]}{place}", each.name, values, wire, family, type_, missing))
        if side in frame.unsupported:
            if table is not None:
                unsupported += [
                    f"{each.name}: unsupported {each.type}"
                    for each in table.columns
                    if not family_of(each.type, self._modes)
                ]
            frame.unsupported[side] = unsupported
        return cells

    def _cell(
        self,
        frame: _Frame,
        label: str,
        column: str,
        values: pa.Array,
        wire: Wire,
        family: str,
        type_: Type | None,
        missing: int,
    ) -> Cell:
        payload = wire_sql(self._engine, label, wire, family, type_, self._modes)
        toast: str | None = None
        if payload is None:
            try:
                array, toasts = payload_array(pa.chunked_array([values]), wire, family, type_, self._modes)
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                raise EvidenceError(f"a value of column `{column}` has no canonical form: {error}") from error
            frame.arrays[label] = array
            payload = strip_sql(f"({label}::VARCHAR)") if pa.types.is_decimal(array.type) else label
        else:
            frame.arrays[label] = values
            toasts = toast_mask(values, wire, family, self._modes)
            if toasts is not None:
                # A placeholder is no value: what reads values must not see it.
                payload = f"CASE WHEN NOT {label}_toast THEN {payload} END"
        if toasts is not None:
            toast = f"{label}_toast"
            frame.arrays[toast] = toasts
        frame.payloads.append(f"{payload} AS p{label}")
        return Cell(column, family, f"p{label}", values.null_count > missing, toast)

    def _key(
        self, frame: _Frame, envelopes: Envelopes, table: Table | None, after: list[Cell], before: list[Cell]
    ) -> str:
        """The key of the record where it has the primary key's columns, else of the row."""
        wanted = set(table.key) if table is not None else set()
        if envelopes.key is not None and (table is None or wanted == set(envelopes.key.column_names)):
            key = envelopes.key
            struct = pa.StructArray.from_arrays([_struct(key[label]) for label in key.column_names], key.column_names)
            cells = self._cells(frame, struct, "key", table, envelopes.wire_of)
            return image_sql(cells) if cells else "NULL::VARCHAR"
        if not wanted:
            return "NULL::VARCHAR"
        sides = [
            image_sql([cell for cell in cells if cell.name in wanted]) if cells else "NULL::VARCHAR"
            for cells in (after, before)
        ]
        return f"CASE WHEN has_after THEN {sides[0]} WHEN has_before THEN {sides[1]} END"

    def keys(self, key: pa.Table, table_name: str, wire_of: WireOf) -> pa.Array:
        """Record keys in canonical form, for records without a value."""
        frame = _Frame({"row": pa.array(range(key.num_rows))})
        columns = [_struct(key[label]) for label in key.column_names]
        struct = pa.StructArray.from_arrays(columns, key.column_names)
        cells = self._cells(frame, struct, "key", self._catalogue.tables.get(table_name), wire_of)
        inner = ", ".join(["row", *frame.payloads])
        sql = f"SELECT {image_sql(cells)} AS key FROM (SELECT {inner} FROM frame) ORDER BY row"
        return _struct(self._engine.query(sql, frame=pa.table(frame.arrays))["key"]).cast(pa.binary())

    def _message(self, frame: _Frame, records: pa.Table) -> str:
        """The image of a logical message: prefix and content."""
        message = _struct(records["message"])
        frame.arrays["has_after"] = message.is_valid()
        frame.arrays["prefix"] = pc.struct_field(message, "prefix")
        frame.arrays["content"] = pc.struct_field(message, "content")
        return "concat('s', strlen(prefix), ':', prefix, 'y', 2 * octet_length(content), ':', lower(hex(content)))"


def _topics(envelopes: Envelopes) -> str:
    if "topic" not in envelopes.place.column_names:
        return "the archive"
    return ", ".join(map(str, pc.unique(envelopes.place["topic"]).to_pylist()))


def _struct(column: pa.ChunkedArray) -> Any:
    """A column in one piece."""
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _common(envelopes: Envelopes, xid_next: int) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The columns that do not depend on the table."""
    records, count = envelopes.records, envelopes.records.num_rows
    source = _struct(records["source"])
    inner = {each.name for each in source.type}

    def of(struct: pa.StructArray, label: str, type_: pa.DataType) -> pa.Array:
        return pc.struct_field(struct, label).cast(type_)

    micros = of(source, "ts_us", pa.int64()) if "ts_us" in inner else pc.multiply(of(source, "ts_ms", pa.int64()), 1000)
    nothing = pa.nulls(count)
    seq: pa.Array = nothing.cast(pa.int64())
    if "transaction" in records.column_names and pa.types.is_struct(records["transaction"].type):
        seq = of(_struct(records["transaction"]), "total_order", pa.int64())
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {
        "op": records["op"].cast(pa.string()),
        "xid": widen_column(of(source, "txId", pa.int64()), xid_next) if "txId" in inner else nothing.cast(pa.uint64()),
        "seq": seq,
        "lsn": of(source, "lsn", pa.int64()) if "lsn" in inner else nothing.cast(pa.int64()),
        "committed_at": micros.cast(pa.timestamp("us", "UTC")),
    }
    for label in ("topic", "partition", "offset", "object"):
        known = label in envelopes.place.column_names
        arrays[label] = envelopes.place[label] if known else nothing.cast(SCHEMA.field(label).type)
    return arrays
