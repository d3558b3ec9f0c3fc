"""A pipeline in the words of `cdcpipe.toml`: what `--target existing` reads."""

from __future__ import annotations

import json
from typing import Any

from cdcpipe.stack.endpoints import SINK, SOURCE, Endpoints, Role

__all__ = ["settings_toml"]


def settings_toml(endpoints: Endpoints, slot: str, *, source: str = SOURCE, sink: str = SINK) -> str:
    """`[endpoints]` of a pipeline with an Iceberg catalog.

    Credentials are in it: the text belongs into a Secret, or into a file that nobody else reads.
    """
    postgres, s3, catalog = endpoints.postgres, endpoints.s3, endpoints.catalog
    assert catalog is not None
    tables: dict[str, dict[str, Any]] = {
        "endpoints": {
            "bootstrap_servers": endpoints.bootstrap_servers,
            "connect_url": endpoints.connect_url,
            "registry_url": endpoints.registry_url,
            "publication": endpoints.publication,
            "topic_prefix": endpoints.topic_prefix,
            "slot": slot,
            "source": source,
            "sink": sink,
        },
        "endpoints.postgres": {"host": postgres.host, "port": postgres.port, "database": postgres.database},
        "endpoints.postgres.owner": _role(postgres.roles["owner"]),
        "endpoints.postgres.witness": _role(postgres.roles["witness"]),
        "endpoints.s3": {
            "url": s3.url,
            "region": s3.region,
            "bucket": s3.bucket,
            "access_key_id": s3.access_key_id,
            "secret_access_key": None if s3.secret_access_key is None else str(s3.secret_access_key),
        },
        "endpoints.catalog": {
            "name": catalog.name,
            "warehouse": catalog.warehouse,
            "host": catalog.postgres.host,
            "port": catalog.postgres.port,
            "database": catalog.postgres.database,
        },
        "endpoints.catalog.role": _role(catalog.postgres.roles["catalog"]),
    }
    return "\n".join(toml_table(name, values) for name, values in tables.items())


def toml_table(name: str, values: dict[str, Any]) -> str:
    """One table of strings, numbers and lists, whose TOML is their JSON; None is left out."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])


def _role(role: Role) -> dict[str, str]:
    return {"name": role.name, "password": str(role.password)}
