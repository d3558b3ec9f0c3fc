"""Guards of where files end and where they are put: Confluent's, Iceberg's and Aiven's sink."""

from __future__ import annotations

import re

from cdcpipe.connect.guards.rule import EXACTLY_ONCE, Answer, Hit, guard
from cdcpipe.connect.pipeline import AIVEN_S3, CONFLUENT_S3, ICEBERG, Part, Pipeline

_S3 = "https://docs.confluent.io/kafka-connectors/s3-sink/current"
_ISSUE = "https://github.com/confluentinc/kafka-connect-storage-cloud/issues"
_ICEBERG_ISSUE = "https://github.com/apache/iceberg/issues"
_AIVEN = "https://github.com/Aiven-Open/cloud-storage-connectors-for-apache-kafka"
_TIME_PARTITIONERS = ("TimeBasedPartitioner", "HourlyPartitioner", "DailyPartitioner")
_IGNORED_BY_ICEBERG = ("iceberg.tables.cdc-field", "iceberg.tables.upsert-mode-enabled")


def _by_time(part: Part) -> bool:
    return part.get("partitioner.class").endswith(_TIME_PARTITIONERS)


@guard(
    "S3C-ROT-01",
    "error",
    "files end by the clock: after a crash the same records make other files, beside or over the first",
    cure="set `rotate.schedule.interval.ms=-1` and use `rotate.interval.ms` with a record timestamp",
    source=f"{_ISSUE}/341",
    keys=("rotate.schedule.interval.ms",),
    profiles=EXACTLY_ONCE,
)
def _scheduled(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(CONFLUENT_S3):
        if part.number("rotate.schedule.interval.ms", -1) > 0:
            yield Hit(part, "rotate.schedule.interval.ms")


@guard(
    "S3C-ROT-02",
    "error",
    "files end by the clock and nothing refuses to overwrite one: a slow task's shorter file replaces a whole one",
    cure="set `rotate.schedule.interval.ms=-1`; or keep `enable.conditional.writes=true` and store no keys or headers",
    source=f"{_ISSUE}/800",
    keys=("enable.conditional.writes", "store.kafka.keys", "store.kafka.headers"),
)
def _overwriting(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(CONFLUENT_S3):
        if part.number("rotate.schedule.interval.ms", -1) <= 0:
            continue
        if part.word("enable.conditional.writes", "true") == "false":
            yield Hit(part, "enable.conditional.writes")
        for key in ("store.kafka.keys", "store.kafka.headers"):
            if part.word(key, "false") == "true":
                yield Hit(part, key, "it turns conditional writes off")


@guard(
    "S3C-ROT-03",
    "warning",
    "a file stays open until it is full: rows of a slow partition are not archived for hours",
    cure="set `rotate.interval.ms`, and let the source's heartbeats or a canary row bring each partition on",
    source=f"{_ISSUE}/144",
    keys=("rotate.interval.ms",),
)
def _never_closed(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(CONFLUENT_S3):
        if max(part.number("rotate.interval.ms", -1), part.number("rotate.schedule.interval.ms", -1)) <= 0:
            yield Hit(part, "rotate.interval.ms")


@guard(
    "S3C-TIM-01",
    "error",
    "folders follow the clock of the worker: a row is put by when it was written, and by another hour after a crash",
    cure="set `timestamp.extractor=Record`, or `RecordField` with `timestamp.field`",
    source=f"{_S3}/overview.html#exactly-once-delivery-on-top-of-eventual-consistency",
    keys=("timestamp.extractor",),
)
def _wallclock(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(CONFLUENT_S3):
        if _by_time(part) and part.word("timestamp.extractor", "wallclock").endswith("wallclock"):
            yield Hit(part, "timestamp.extractor")


@guard(
    "S3C-TIM-02",
    "error",
    "folders are named in local time: an hour a year comes twice, and readers expect UTC",
    cure="set `timezone=UTC`",
    source=f"{_S3}/configuration_options.html",
    keys=("timezone",),
)
def _local_time(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(CONFLUENT_S3):
        if _by_time(part) and part.get("timezone").upper() not in {"UTC", "ETC/UTC", "Z", "GMT"}:
            yield Hit(part, "timezone")


@guard(
    "S3C-TIM-03",
    "error",
    "folders are named with hours of a 12-hour clock: morning and evening share one",
    cure="write the hour as `HH` in `path.format`",
    source="https://www.joda.org/joda-time/apidocs/org/joda/time/format/DateTimeFormat.html",
    keys=("path.format",),
)
def _half_days(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(CONFLUENT_S3):
        pattern = re.sub(r"'[^']*'", "", part.get("path.format"))
        if _by_time(part) and re.search(r"[hK]", pattern):
            yield Hit(part, "path.format")


@guard(
    "S3C-SCH-01",
    "warning",
    "each change of schema ends a file, so two writers in turn make a file a record",
    cure="set `schema.compatibility=FULL`",
    source=f"{_ISSUE}/412",
    keys=("schema.compatibility",),
)
def _schema_flap(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(CONFLUENT_S3):
        if part.word("schema.compatibility", "none") == "none":
            yield Hit(part, "schema.compatibility")


@guard(
    "ICE-OFS-01",
    "error",
    "a coordinator without an offset begins at the end of the control topic: files written before are never added",
    cure="set `iceberg.kafka.auto.offset.reset=earliest`: Iceberg's default is latest",
    source=f"{_ICEBERG_ISSUE}/17551",
    keys=("iceberg.kafka.auto.offset.reset",),
)
def _control_from_the_end(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(ICEBERG):
        if part.word("iceberg.kafka.auto.offset.reset", "latest") != "earliest":
            yield Hit(part, "iceberg.kafka.auto.offset.reset")


@guard(
    "ICE-CTL-01",
    "error",
    "two sinks share one control topic, and one adds or drops the other's files",
    cure="give each sink an `iceberg.control.topic` of its own",
    source="https://iceberg.apache.org/docs/latest/kafka-connect/#configuration",
    keys=("iceberg.control.topic",),
)
def _shared_control(pipeline: Pipeline) -> Answer:
    seen: dict[str, Part] = {}
    for part in pipeline.of_class(ICEBERG):
        first = seen.setdefault(part.get("iceberg.control.topic", "control-iceberg"), part)
        if first is not part:
            yield Hit(part, "iceberg.control.topic", f"sink `{first.name}` has it, too")


@guard(
    "ICE-CTL-02",
    "warning",
    "the control topic is Iceberg's default, `control-iceberg`, which the next sink will share",
    cure="set `iceberg.control.topic` to a topic of this sink's own",
    source="https://iceberg.apache.org/docs/latest/kafka-connect/#configuration",
    keys=("iceberg.control.topic",),
)
def _default_control(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(ICEBERG):
        if part.get("iceberg.control.topic", "control-iceberg") == "control-iceberg":
            yield Hit(part, "iceberg.control.topic")


@guard(
    "ICE-APP-01",
    "error",
    "the sink only appends: keys that promise upserts or deletes are ignored without a word",
    cure="remove them, archive the envelope, and fold it when reading",
    source=f"{_ICEBERG_ISSUE}/17542",
    keys=_IGNORED_BY_ICEBERG,
)
def _upserts(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(ICEBERG):
        for key in _IGNORED_BY_ICEBERG:
            if part.get(key):
                yield Hit(part, key)


@guard(
    "ICE-SCH-01",
    "error",
    "a column that the table hasn't got is left out of the archive",
    cure="set `iceberg.tables.evolve-schema-enabled=true`",
    source="https://iceberg.apache.org/docs/latest/kafka-connect/#configuration",
    keys=("iceberg.tables.evolve-schema-enabled",),
)
def _columns_left_out(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(ICEBERG):
        if part.word("iceberg.tables.evolve-schema-enabled", "false") != "true":
            yield Hit(part, "iceberg.tables.evolve-schema-enabled")


@guard(
    "AIV-EOS-01",
    "error",
    "Aiven's sink writes at least once: after a crash files overlap",
    cure="use the Iceberg or Confluent's sink, or lint with `--profile at_least_once` and drop repeats when reading",
    source="https://github.com/Aiven-Open/s3-connector-for-apache-kafka/pull/224",
    keys=("connector.class",),
    profiles=EXACTLY_ONCE,
)
def _aiven(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(AIVEN_S3):
        yield Hit(part, "connector.class")


@guard(
    "AIV-MEM-01",
    "warning",
    "a file has no bound, so a backlog is buffered in memory until the worker dies",
    cure="set `file.max.records`",
    source=f"{_AIVEN}/issues/270",
    keys=("file.max.records",),
)
def _unbounded(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(AIVEN_S3):
        if part.number("file.max.records", 0) <= 0:
            yield Hit(part, "file.max.records")


@guard(
    "AIV-TIM-01",
    "error",
    "folders follow the clock of the worker: a row is put by when it was written, and by another hour after a crash",
    cure="set `file.name.timestamp.source=EVENT`",
    source=f"{_AIVEN}/blob/main/s3-sink-connector/README.md",
    keys=("file.name.timestamp.source",),
)
def _aiven_wallclock(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(AIVEN_S3):
        dated = "timestamp" in part.get("file.name.template")
        if dated and part.word("file.name.timestamp.source", "wallclock") != "event":
            yield Hit(part, "file.name.timestamp.source")


@guard(
    "AIV-TIM-02",
    "error",
    "folders are named in local time: an hour a year comes twice, and readers expect UTC",
    cure="set `file.name.timestamp.timezone=UTC`",
    source=f"{_AIVEN}/blob/main/s3-sink-connector/README.md",
    keys=("file.name.timestamp.timezone",),
)
def _aiven_local_time(pipeline: Pipeline) -> Answer:
    for part in pipeline.of_class(AIVEN_S3):
        zone = part.get("file.name.timestamp.timezone", "Z").upper()
        if "timestamp" in part.get("file.name.template") and zone not in {"UTC", "Z", "ETC/UTC", "GMT"}:
            yield Hit(part, "file.name.timestamp.timezone")
