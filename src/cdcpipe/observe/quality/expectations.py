"""What must hold of the data whatever was learned: pandera schemas, written by hand beside `cdcpipe.toml`.

    import pandera.ibis as pa

    class Orders(pa.DataFrameModel):
        amount: Decimal = pa.Field(ge=0, le=10_000)
        state: str = pa.Field(isin=["new", "paid", "sent"])

        class Config:
            name = "public.orders"

    EXPECTATIONS = [Orders]

pandera's ibis backend turns them into queries, which DuckDB runs over the same rows as a profile; only rows that fail
come back. A model needs no type where only a check matters: a type that the archive doesn't have is unmet too.
"""

from __future__ import annotations

import runpy
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from cdcpipe.errors import ConfigError, MissingExtra

__all__ = ["Unmet", "expect", "load_expectations"]


@dataclass(frozen=True, slots=True)
class Unmet:
    """An expectation that doesn't hold. `examples` are some of the values that fail."""

    table: str
    column: str | None
    check: str
    examples: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """For a person."""
        where = f"`{self.table}{'' if self.column is None else f'.{self.column}'}`"
        shown = f", for example {', '.join(self.examples)}" if self.examples else ""
        return f"{where} does not meet {self.check}{shown}"


def load_expectations(path: Path) -> Mapping[str, Any]:
    """Table -> schema, as the file has them in `EXPECTATIONS`. Nothing when there is no such file.

    The file is a program, and runs: it is yours. Raises `ConfigError` for one that fails or has none.
    """
    if not path.exists():
        return {}
    try:
        import pandera.ibis  # noqa: F401
    except ImportError as error:
        raise MissingExtra("observe", f"`{path}`") from error
    try:
        listed = runpy.run_path(str(path))["EXPECTATIONS"]
        found = {str(each.to_schema().name if hasattr(each, "to_schema") else each.name): each for each in listed}
    except KeyError as error:
        raise ConfigError(f"`{path}` has no list `EXPECTATIONS`", hint="see `cdcpipe quality --help`") from error
    except Exception as error:
        raise ConfigError(f"`{path}` fails: {type(error).__name__}: {error}") from error
    nameless = [name for name in found if name.count(".") != 1]
    if nameless:
        raise ConfigError(
            f"a schema in `{path}` is called `{nameless[0]}`", hint="its name is the table's: `schema.table`"
        )
    return found


def expect(connection: duckdb.DuckDBPyConnection, rows: str, table: str, schema: Any) -> tuple[Unmet, ...]:
    """What of `schema` doesn't hold for the view `rows` (see `sources`), deleted rows left out."""
    import ibis
    from pandera.errors import SchemaError, SchemaErrors

    with warnings.catch_warnings():
        # ibis calls a method of DuckDB that DuckDB has renamed.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        view = ibis.duckdb.from_connection(connection).table(rows)
        data = view.filter(view["cdcpipe_op"] != "d")
        data = data.drop("cdcpipe_committed_at", "cdcpipe_arrived_at", "cdcpipe_op")
        try:
            schema.validate(data, lazy=True)
        except SchemaErrors as errors:
            return _unmet(table, errors.schema_errors)
        except SchemaError as error:
            return _unmet(table, [error])
    return ()


def _unmet(table: str, errors: Any) -> tuple[Unmet, ...]:
    found: dict[tuple[str | None, str], Counter[str]] = {}
    for error in errors:
        column = getattr(error.schema, "name", None)
        column = None if column == table else column
        check = str(getattr(error.check, "error", None) or error.check)
        values = found.setdefault((column, check), Counter())
        cases: Any = getattr(error, "failure_cases", None)
        if hasattr(cases, "to_pyarrow"):
            cases = cases.limit(5).to_pyarrow().to_pylist()
            values.update(str(next(iter(case.values()))) for case in cases)
        elif isinstance(cases, str):
            values[cases] += 1
    return tuple(Unmet(table, column, check, tuple(list(seen)[:5])) for (column, check), seen in found.items())
