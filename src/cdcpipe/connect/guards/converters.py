"""Guards of converters and the schema registry."""

from __future__ import annotations

from collections.abc import Iterator

from cdcpipe.connect.guards.rule import Answer, Hit, Unanswered, guard
from cdcpipe.connect.pipeline import AIVEN_S3, CONFLUENT_S3, ICEBERG, Part, Pipeline

_CONFLUENT = "io.confluent.connect.avro.AvroConverter"
_APICURIO = "io.apicurio.registry.utils.converter.AvroConverter"
_JSON = "org.apache.kafka.connect.json.JsonConverter"
_APICURIO_DOCS = "https://www.apicur.io/registry/docs/apicurio-registry/2.6.x/"
_CONFLUENT_DOCS = "https://docs.confluent.io/platform/current/schema-registry"
_SLOTS = ("key.converter", "value.converter")


def _converters(pipeline: Pipeline, java_class: str) -> Iterator[tuple[Part, str]]:
    """Where a converter of this class is set up: the part and the key that names it."""
    for part in (*pipeline.connectors, *((pipeline.worker,) if pipeline.worker else ())):
        for slot in _SLOTS:
            if part.get(slot) == java_class:
                yield part, slot


def _wire(pipeline: Pipeline, part: Part, slot: str) -> str:
    """What bytes a connector's converter reads or writes; converters of one answer understand each other."""
    java_class = pipeline.effective(part, slot)
    holder = part if slot in part.config or pipeline.worker is None else pipeline.worker
    if java_class == _APICURIO:
        headers = holder.word(f"{slot}.apicurio.registry.headers.enabled", "true") == "true"
        return "avro, id in headers" if headers else "avro, id in the payload"
    if java_class == _CONFLUENT:
        return "avro, id in the payload"
    if java_class == _JSON:
        return "json with schema" if holder.word(f"{slot}.schemas.enable", "true") == "true" else "json without schema"
    return java_class


@guard(
    "CNV-01",
    "error",
    "source and sink use converters that don't understand each other: every record is a dead letter, or the task fails",
    cure="give source and sink the same converters",
    source="https://kafka.apache.org/documentation/#connect_running",
    keys=_SLOTS,
)
def _misunderstanding(pipeline: Pipeline) -> Answer:
    for source in pipeline.sources:
        for sink in pipeline.sinks:
            for slot in _SLOTS:
                written, read = _wire(pipeline, source, slot), _wire(pipeline, sink, slot)
                if written and read and written != read:
                    yield Hit(sink, slot, f"`{source.name}` writes {written}, this reads {read}")


@guard(
    "CNV-02",
    "error",
    "the schema id goes into record headers, where no Confluent client looks for it",
    cure="set `apicurio.registry.headers.enabled=false` on the converter",
    source=_APICURIO_DOCS,
    keys=("key.converter.apicurio.registry.headers.enabled", "value.converter.apicurio.registry.headers.enabled"),
)
def _id_in_headers(pipeline: Pipeline) -> Answer:
    for part, slot in _converters(pipeline, _APICURIO):
        if part.word(f"{slot}.apicurio.registry.headers.enabled", "true") != "false":
            yield Hit(part, f"{slot}.apicurio.registry.headers.enabled")


@guard(
    "CNV-03",
    "error",
    "the id that is written isn't the one that the Confluent-compatible API knows: readers get another schema, or none",
    cure="set `apicurio.registry.use-id=contentId` on the converter",
    source="https://github.com/Apicurio/apicurio-registry/issues/2279",
    keys=("key.converter.apicurio.registry.use-id", "value.converter.apicurio.registry.use-id"),
)
def _other_id(pipeline: Pipeline) -> Answer:
    for part, slot in _converters(pipeline, _APICURIO):
        if part.get(f"{slot}.apicurio.registry.use-id", "globalId") != "contentId":
            yield Hit(part, f"{slot}.apicurio.registry.use-id")


@guard(
    "CNV-07",
    "error",
    "ids of 8 bytes are written where every Confluent client reads 4: it finds id 0, and no schema",
    cure="set `apicurio.registry.as-confluent=true` on the converter",
    source=_APICURIO_DOCS,
    keys=("key.converter.apicurio.registry.as-confluent", "value.converter.apicurio.registry.as-confluent"),
)
def _long_ids(pipeline: Pipeline) -> Answer:
    for part, slot in _converters(pipeline, _APICURIO):
        if part.word(f"{slot}.apicurio.registry.as-confluent", "false") != "true":
            yield Hit(part, f"{slot}.apicurio.registry.as-confluent")


def _wants_a_schema(part: Part) -> bool:
    if part.java_class == CONFLUENT_S3:
        return "parquet" in part.word("format.class") or "avro" in part.word("format.class")
    if part.java_class == AIVEN_S3:
        return part.word("format.output.type", "csv") in {"parquet", "avro"}
    return part.java_class == ICEBERG


@guard(
    "CNV-04",
    "error",
    "records come without a schema: the sink guesses types from values, or stops",
    cure="use an Avro converter, or set `value.converter.schemas.enable=true` on source and sink",
    source="https://kafka.apache.org/documentation/#connect_running",
    keys=("value.converter", "value.converter.schemas.enable"),
)
def _no_schema(pipeline: Pipeline) -> Answer:
    for part in pipeline.sinks:
        if _wants_a_schema(part) and _wire(pipeline, part, "value.converter") == "json without schema":
            key = "value.converter.schemas.enable"
            yield Hit(part, key if key in part.config else "value.converter")


@guard(
    "CNV-05",
    "error",
    "a record is written with a schema that it isn't of, since the check against the latest one is off",
    cure="remove `latest.compatibility.strict=false`, or `use.latest.version`",
    source=f"{_CONFLUENT_DOCS}/fundamentals/serdes-develop/index.html",
    keys=("key.converter.latest.compatibility.strict", "value.converter.latest.compatibility.strict"),
)
def _not_strict(pipeline: Pipeline) -> Answer:
    for part, slot in _converters(pipeline, _CONFLUENT):
        if part.word(f"{slot}.latest.compatibility.strict", "true") == "false":
            yield Hit(part, f"{slot}.latest.compatibility.strict")


@guard(
    "CNV-06",
    "error",
    "a null in a nullable column with a default becomes the default",
    cure="set `ignore.default.for.nullables=true` (Avro) or `replace.null.with.default=false` (JSON) on the converter",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-581",
    keys=("value.converter.ignore.default.for.nullables", "value.converter.replace.null.with.default"),
)
def _null_becomes_default(pipeline: Pipeline) -> Answer:
    for part, slot in _converters(pipeline, _CONFLUENT):
        if slot == "value.converter" and part.word(f"{slot}.ignore.default.for.nullables", "false") != "true":
            yield Hit(part, f"{slot}.ignore.default.for.nullables")
    for part, slot in _converters(pipeline, _JSON):
        # A worker's default that every connector overrides converts nothing.
        idle = (
            part is pipeline.worker and pipeline.connectors and all(slot in one.config for one in pipeline.connectors)
        )
        if slot == "value.converter" and not idle and part.word(f"{slot}.replace.null.with.default", "true") != "false":
            yield Hit(part, f"{slot}.replace.null.with.default")


@guard(
    "REG-01",
    "error",
    "the registry takes any schema: a change that readers can't follow is found when they fail",
    cure="set the compatibility to FULL_TRANSITIVE",
    source=f"{_CONFLUENT_DOCS}/fundamentals/schema-evolution.html",
    keys=("compatibility",),
)
def _no_compatibility(pipeline: Pipeline) -> Answer:
    if pipeline.registry is None:
        if any(_wire(pipeline, part, "value.converter").startswith("avro") for part in pipeline.connectors):
            yield Unanswered("the registry's compatibility was not given")
    elif pipeline.registry.word("compatibility", "backward") == "none":
        yield Hit(pipeline.registry, "compatibility")


@guard(
    "REG-02",
    "warning",
    "compatibility is held against the latest version only: files of older ones may not be readable as one table",
    cure="set the compatibility to FULL_TRANSITIVE",
    source=f"{_CONFLUENT_DOCS}/fundamentals/schema-evolution.html#transitive-property",
    keys=("compatibility",),
)
def _not_transitive(pipeline: Pipeline) -> Answer:
    registry = pipeline.registry
    if registry is not None and registry.word("compatibility", "backward") in {"backward", "forward", "full"}:
        yield Hit(registry, "compatibility")
