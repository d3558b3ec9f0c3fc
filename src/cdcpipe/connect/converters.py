"""Converters: how a record's key and value become bytes in Kafka, and back.

A converter is given to a connector or worker as `key_converter=` or `value_converter=`; there it lies under
`key.converter` and `value.converter` (the class) and the same with a dot (its settings).
https://kafka.apache.org/documentation/#connect_running
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator

from cdcpipe.connect.model import Config, Item, Key, Prefixed, Text, read_under, take_prefix
from cdcpipe.connect.secrets import SecretRef

__all__ = [
    "ApicurioAvroConverter",
    "AvroConverter",
    "ByteArrayConverter",
    "Converter",
    "ConverterAt",
    "JsonConverter",
    "OtherConverter",
    "StringConverter",
]


class Converter(Config):
    """What every converter has: the class that `key.converter` or `value.converter` names."""

    class_name: ClassVar[str]

    @property
    def converter_class(self) -> str:
        """The Java class of this converter."""
        return self.class_name


class AvroConverter(Converter):
    """Confluent's Avro converter: magic byte 0, 4-byte schema id, Avro.

    https://docs.confluent.io/platform/current/schema-registry/connect.html
    """

    class_name = "io.confluent.connect.avro.AvroConverter"

    schema_registry_url: Annotated[tuple[Item, ...], Key("schema.registry.url", many=True)]
    """One or more base URLs of the registry's API, such as `("http://registry:8081",)`."""

    auto_register_schemas: Annotated[bool | None, Key("auto.register.schemas")] = True
    """Register a schema that the registry doesn't have; False: fail. Confluent's default: true."""

    use_latest_version: Annotated[bool | None, Key("use.latest.version")] = None
    """Serialize with the subject's latest version instead of the record's own schema. Default false."""

    latest_compatibility_strict: Annotated[bool | None, Key("latest.compatibility.strict")] = None
    """With `use_latest_version`: refuse a latest version that isn't backward compatible. Default true."""

    normalize_schemas: Annotated[bool | None, Key("normalize.schemas")] = None
    """Bring schemas into canonical form before they are compared or registered. Default false."""

    enhanced_avro_schema_support: Annotated[bool | None, Key("enhanced.avro.schema.support")] = True
    """Keep enum symbols and package names. Confluent's default: false."""

    ignore_default_for_nullables: Annotated[bool | None, Key("ignore.default.for.nullables")] = True
    """Keep null where a nullable field has a default. Confluent's default false turns null into the default."""

    connect_meta_data: Annotated[bool | None, Key("connect.meta.data")] = None
    """Write Connect's own metadata into the Avro schema. Default true."""

    key_subject_name_strategy: Annotated[str | None, Key("key.subject.name.strategy")] = None
    """Class that names the subject of a key. Default TopicNameStrategy: `<topic>-key`."""

    value_subject_name_strategy: Annotated[str | None, Key("value.subject.name.strategy")] = None
    """Class that names the subject of a value. Default TopicNameStrategy: `<topic>-value`."""

    schemas_cache_config: Annotated[int | None, Key("schemas.cache.config"), Field(ge=1)] = None
    """How many schemas the converter caches. Default 1000."""

    basic_auth_credentials_source: Annotated[
        Literal["URL", "USER_INFO", "SASL_INHERIT"] | None, Key("basic.auth.credentials.source")
    ] = None
    """Where the registry's user and password come from. Default URL."""

    basic_auth_user_info: Annotated[SecretRef | None, Key("basic.auth.user.info")] = None
    """`user:password` for the registry. Default none."""

    ssl_truststore_location: Annotated[str | None, Key("schema.registry.ssl.truststore.location")] = None
    """Truststore that knows the registry's certificate. Default none."""

    ssl_truststore_password: Annotated[SecretRef | None, Key("schema.registry.ssl.truststore.password")] = None
    """Password of the truststore. Default none."""

    @classmethod
    def apicurio(cls, url: str, *, auto_register: bool = True) -> ApicurioAvroConverter:
        """The Apicurio form of this converter, writing the same bytes; `url` is the registry's root."""
        return ApicurioAvroConverter(registry_url=url.rstrip("/") + "/apis/registry/v2", auto_register=auto_register)

    @classmethod
    def confluent(cls, url: str, *, auto_register: bool = True) -> Self:
        """Confluent's own converter; `url` is the base of the Confluent-compatible API."""
        return cls(schema_registry_url=(url,), auto_register_schemas=auto_register)


class ApicurioAvroConverter(Converter):
    """Apicurio's Avro converter (2.x), set to write what every Confluent client can read.

    Proven: magic 0, 4-byte content id, Avro; subjects `<topic>-key` and `<topic>-value`.
    https://www.apicur.io/registry/docs/apicurio-registry/2.6.x/
    """

    class_name = "io.apicurio.registry.utils.converter.AvroConverter"

    registry_url: Annotated[str, Key("apicurio.registry.url")]
    """The registry's v2 API: `http://host:port/apis/registry/v2`."""

    headers_enabled: Annotated[bool | None, Key("apicurio.registry.headers.enabled")] = False
    """True puts the schema id into record headers, where no Confluent client looks. Apicurio's default: true."""

    use_id: Annotated[Literal["contentId", "globalId"] | None, Key("apicurio.registry.use-id")] = "contentId"
    """Which id is written. The Confluent-compatible API knows content ids."""

    as_confluent: Annotated[bool | None, Key("apicurio.registry.as-confluent")] = True
    """Write ids of 4 bytes, which is Confluent's wire format; it warns of the id handler that it replaces. Apicurio's
    default false writes 8, and a Confluent client reads id 0."""

    auto_register: Annotated[bool | None, Key("apicurio.registry.auto-register")] = True
    """Register a schema that the registry doesn't have."""

    find_latest: Annotated[bool | None, Key("apicurio.registry.find-latest")] = True
    """Look the artefact's latest version up instead of an exact one."""

    if_exists: Annotated[
        Literal["FAIL", "UPDATE", "RETURN", "RETURN_OR_UPDATE"] | None, Key("apicurio.registry.auto-register.if-exists")
    ] = None
    """What to do when the artefact is there already. Default RETURN_OR_UPDATE."""

    auth_username: Annotated[Text | None, Key("apicurio.auth.username")] = None
    """User for the registry. Default none."""

    auth_password: Annotated[SecretRef | None, Key("apicurio.auth.password")] = None
    """Password for the registry. Default none."""


class JsonConverter(Converter):
    """Kafka's JSON converter. https://kafka.apache.org/documentation/#connectconfigs"""

    class_name = "org.apache.kafka.connect.json.JsonConverter"

    schemas_enable: Annotated[bool | None, Key("schemas.enable")] = False
    """Put the schema into each record. Kafka's default: true."""

    schemas_cache_size: Annotated[int | None, Key("schemas.cache.size"), Field(ge=1)] = None
    """How many schemas the converter caches. Default 1000."""

    replace_null_with_default: Annotated[bool | None, Key("replace.null.with.default")] = False
    """False keeps nulls of fields that have a default. Kafka's default true turns null into the default."""

    decimal_format: Annotated[Literal["BASE64", "NUMERIC"] | None, Key("decimal.format")] = None
    """How decimals are written. NUMERIC is readable, and exact as far as the reader is. Default BASE64."""


class StringConverter(Converter):
    """Kafka's string converter: UTF-8 text without a schema."""

    class_name = "org.apache.kafka.connect.storage.StringConverter"


class ByteArrayConverter(Converter):
    """Kafka's byte array converter: bytes pass through unread."""

    class_name = "org.apache.kafka.connect.converters.ByteArrayConverter"


class OtherConverter(Converter):
    """A converter that this package has no model for; its settings are kept as they are."""

    class_name = ""

    java_class: Annotated[str, Field(exclude=True)]
    """The Java class."""

    options: Annotated[Mapping[str, Text], Prefixed("")] = Field(default_factory=dict)
    """Its settings, without `key.converter.` or `value.converter.`."""

    @field_validator("java_class")
    @classmethod
    def _has_no_model(cls, java_class: str) -> str:
        if java_class in _MODELS:
            raise ValueError(f"there is a model for this class: `{_MODELS[java_class].__name__}`")
        return java_class

    @property
    def converter_class(self) -> str:
        return self.java_class


_MODELS: dict[str, type[Converter]] = {
    model.class_name: model
    for model in (AvroConverter, ApicurioAvroConverter, JsonConverter, StringConverter, ByteArrayConverter)
}


class ConverterAt:
    """The codec of a field that holds a converter: its class at `prefix`, its settings under `prefix.`."""

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def render(self, value: object) -> dict[str, str]:
        assert isinstance(value, Converter)
        settings = {f"{self.prefix}.{key}": text for key, text in value.to_config().items()}
        return {self.prefix: value.converter_class, **settings}

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        name = remaining.pop(self.prefix, None)
        if name is None:
            return None
        settings = take_prefix(remaining, f"{self.prefix}.")
        model = _MODELS.get(name)
        if model is None:
            return OtherConverter(java_class=name, options=dict(settings))
        return read_under(f"{self.prefix}.", model, settings, keep_unknown)

    def keys(self) -> Iterator[str]:
        yield self.prefix
