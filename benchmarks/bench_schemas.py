"""How long a whole history takes: 100 columns, 50 versions, FULL_TRANSITIVE. JSON lines on stdout.

Three figures: `registration` compares one new version with the 49 before it, `checked` every version with all before
it, `parsed` does so from the registry's texts. The history grows and shrinks by
a column at a time, inside Debezium's envelope, so that the versions differ in the way that migrations make them differ.
"""

from __future__ import annotations

import json
import statistics
import time

from cdcpipe.schemas.avro import parse
from cdcpipe.schemas.compatibility import Mode, check, check_history
from cdcpipe.schemas.connect_types import to_avro
from cdcpipe.schemas.table import Column, PgType, Table
from cdcpipe.schemas.types import envelope_schema

COLUMNS, VERSIONS, ROUNDS = 100, 50, 7
TYPES = ("int4", "text", "timestamp", "numeric", "jsonb", "uuid", "timestamptz", "float8", "bool")


def history() -> list[str]:
    """The texts of the versions, oldest first, all compatible."""
    texts = []
    for version in range(VERSIONS):
        first = version // 2  # a column leaves in every other version
        names = range(first, first + COLUMNS + version % 2)
        columns = tuple(
            Column(f"c{n}", PgType(TYPES[n % len(TYPES)], (12, 2) if TYPES[n % len(TYPES)] == "numeric" else ()))
            for n in names
        )
        table = Table("public", "orders", (Column("id", PgType("int8"), not_null=True), *columns), ("id",))
        texts.append(json.dumps(to_avro(envelope_schema(table, "cdc"))))
    return texts


def main() -> None:
    """Print the figures."""
    texts = history()
    parsed, checked, one = [], [], []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        schemas = [parse(text) for text in texts]
        middle = time.perf_counter()
        verdicts = check_history(schemas, Mode.FULL_TRANSITIVE)
        end = time.perf_counter()
        assert all(verdict.compatible for verdict in verdicts)
        check(schemas[-1], schemas[:-1], Mode.FULL_TRANSITIVE)
        one.append((time.perf_counter() - end) * 1000)
        checked.append((end - middle) * 1000)
        parsed.append((end - begin) * 1000)
    for name, values in (("registration", one), ("checked", checked), ("parsed", parsed)):
        figure = {
            "benchmark": "schemas.history",
            "figure": f"{name}_ms",
            "columns": COLUMNS,
            "versions": VERSIONS,
            "mode": "FULL_TRANSITIVE",
            "pairs": VERSIONS * (VERSIONS - 1),
            "median": round(statistics.median(values), 1),
            "best": round(min(values), 1),
        }
        print(json.dumps(figure))


if __name__ == "__main__":
    main()
