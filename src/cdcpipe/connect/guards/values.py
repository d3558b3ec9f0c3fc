"""Guards of values: what the source writes must be what PostgreSQL holds."""

from __future__ import annotations

from cdcpipe.connect.guards.rule import EXACTLY_ONCE, Answer, Hit, guard
from cdcpipe.connect.pipeline import Pipeline

_DOCS = "https://debezium.io/documentation/reference/stable/connectors/postgresql.html"


@guard(
    "VAL-01",
    "error",
    "numeric values become doubles, which rounds them",
    cure="set `decimal.handling.mode=precise` or `string`",
    source=f"{_DOCS}#postgresql-decimal-types",
    keys=("decimal.handling.mode",),
)
def _doubles(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if part.word("decimal.handling.mode", "precise") == "double":
            yield Hit(part, "decimal.handling.mode")


@guard(
    "VAL-02",
    "error",
    "times are cut to milliseconds, PostgreSQL keeps microseconds",
    cure="set `time.precision.mode=adaptive`, `microseconds` or `isostring`",
    source=f"{_DOCS}#postgresql-temporal-types",
    keys=("time.precision.mode",),
)
def _milliseconds(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if part.word("time.precision.mode", "adaptive") == "connect":
            yield Hit(part, "time.precision.mode")


@guard(
    "VAL-03",
    "warning",
    "an interval becomes microseconds of months of 30.4 days, from which it can't be had back",
    cure="set `interval.handling.mode=string`",
    source=f"{_DOCS}#postgresql-property-interval-handling-mode",
    keys=("interval.handling.mode",),
)
def _intervals(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if part.word("interval.handling.mode", "numeric") != "string":
            yield Hit(part, "interval.handling.mode")


@guard(
    "VAL-04",
    "error",
    "a column that can't be converted becomes null, and nobody is told but the log",
    cure="set `event.converting.failure.handling.mode=fail`: Debezium's default is warn",
    source=f"{_DOCS}#postgresql-property-event-converting-failure-handling-mode",
    keys=("event.converting.failure.handling.mode",),
)
def _null_instead(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if part.word("event.converting.failure.handling.mode", "warn") != "fail":
            yield Hit(part, "event.converting.failure.handling.mode")


@guard(
    "VAL-05",
    "warning",
    "nothing says what stands for a large value that an UPDATE left alone, so a reader may take it for the value",
    cure="write `unavailable.value.placeholder` out, and have readers take it as unknown",
    source="https://github.com/debezium/dbz/issues/221",
    keys=("unavailable.value.placeholder",),
    profiles=EXACTLY_ONCE,
)
def _toast_unsaid(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if not part.get("unavailable.value.placeholder"):
            yield Hit(part, "unavailable.value.placeholder")


@guard(
    "VAL-06",
    "error",
    "a column is read again when its change is processed: the value is that of now, not of the change",
    cure="leave the post processor out, and set REPLICA IDENTITY FULL where whole images are needed",
    source="https://debezium.io/documentation/reference/stable/post-processors/reselect-columns.html",
    keys=("post.processors",),
    profiles=EXACTLY_ONCE,
)
def _read_again(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        for name in part.words("post.processors"):
            if "ReselectColumns" in part.get(f"{name}.type"):
                yield Hit(part, "post.processors", f"`{name}`")


@guard(
    "VAL-07",
    "warning",
    "a dropped TOAST column may live on in the cached schema, and later changes be read by it",
    cure="set `schema.refresh.mode=columns_diff`",
    source=f"{_DOCS}#postgresql-property-schema-refresh-mode",
    keys=("schema.refresh.mode",),
)
def _stale_schema(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if part.word("schema.refresh.mode", "columns_diff") != "columns_diff":
            yield Hit(part, "schema.refresh.mode")


@guard(
    "VAL-08",
    "warning",
    "a table or column whose name isn't legal in Avro makes the task fail at its first change",
    cure="set `schema.name.adjustment.mode=avro` and `field.name.adjustment.mode=avro`",
    source=f"{_DOCS}#postgresql-property-schema-name-adjustment-mode",
    keys=("schema.name.adjustment.mode", "field.name.adjustment.mode"),
)
def _illegal_names(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if "avro" not in pipeline.effective(part, "value.converter").lower():
            continue
        for key in ("schema.name.adjustment.mode", "field.name.adjustment.mode"):
            if part.word(key, "none") == "none":
                yield Hit(part, key)
                break
