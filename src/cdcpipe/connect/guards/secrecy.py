"""Guards of credentials and personal data."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

from cdcpipe.connect.guards.rule import Answer, Hit, guard
from cdcpipe.connect.pipeline import Pipeline
from cdcpipe.connect.references import holds_password, is_reference, is_sensitive

_KIP_297 = "https://cwiki.apache.org/confluence/display/KAFKA/KIP-297"


@guard(
    "SEC-01",
    "error",
    "a credential is written out: it is in the config topic, in every REST answer and in this file",
    cure="put it into a Kubernetes Secret or a file and refer to it: `${file:/path:key}`, `${secrets:ns/name:key}`",
    source=_KIP_297,
    keys=(),
)
def _literals(pipeline: Pipeline) -> Answer:
    for part in pipeline.parts():
        for key, text in part.config.items():
            if text.strip() and is_sensitive(key) and not is_reference(text.strip()):
                yield Hit(part, key)


@guard(
    "SEC-02",
    "error",
    "an address holds a password: it is in the config topic, in every REST answer and in this file",
    cure="take it out of the address and into a key of its own, as a reference",
    source=_KIP_297,
    keys=(),
)
def _in_addresses(pipeline: Pipeline) -> Answer:
    for part in pipeline.parts():
        for key, text in part.config.items():
            if not is_sensitive(key) and holds_password(text):
                yield Hit(part, key)


@guard(
    "SEC-03",
    "warning",
    "the provider reads any file of the worker, which whoever may write a config can then have",
    cure="set `config.providers.<name>.param.allowed.paths`",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-993",
    keys=("config.providers",),
)
def _any_file(pipeline: Pipeline) -> Answer:
    worker = pipeline.worker
    for name in worker.words("config.providers") if worker else ():
        java_class = worker.get(f"config.providers.{name}.class") if worker else ""
        reads_files = java_class.endswith((".FileConfigProvider", ".DirectoryConfigProvider"))
        if worker and reads_files and not worker.get(f"config.providers.{name}.param.allowed.paths"):
            yield Hit(worker, f"config.providers.{name}.class", f"provider `{name}`")


@guard(
    "SEC-04",
    "warning",
    "records that fail are logged whole, with the personal data in them",
    cure="set `errors.log.include.messages=false`; the dead letter queue has the record",
    source="https://kafka.apache.org/documentation/#connectconfigs_errors.log.include.messages",
    keys=("errors.log.include.messages",),
)
def _logged(pipeline: Pipeline) -> Answer:
    for part in pipeline.connectors:
        if part.word("errors.log.include.messages", "false") == "true":
            yield Hit(part, "errors.log.include.messages")


@guard(
    "SEC-05",
    "error",
    "files go to the store unencrypted",
    cure="use an https address",
    source="https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingEncryptionInTransit.html",
    keys=("store.url", "iceberg.catalog.s3.endpoint", "aws.s3.endpoint"),
)
def _plain_http(pipeline: Pipeline) -> Answer:
    for part in pipeline.connectors:
        for key in ("store.url", "iceberg.catalog.s3.endpoint", "aws.s3.endpoint"):
            address = urlsplit(part.get(key))
            if address.scheme == "http" and not _is_loopback(address.hostname or ""):
                yield Hit(part, key)


def _is_loopback(host: str) -> bool:
    """Whether it is this machine for certain. A short name or one of a cluster may be any other machine."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
