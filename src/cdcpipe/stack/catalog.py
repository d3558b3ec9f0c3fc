"""The Iceberg tables that the sink writes, through the catalog that it writes them to."""

from __future__ import annotations

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from cdcpipe.errors import StorageError
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["archived_offsets", "open_catalog"]


def open_catalog(endpoints: Endpoints) -> SqlCatalog:
    """pyiceberg's view of the pipeline's catalog. Raises `StorageError` when there is none."""
    catalog, s3 = endpoints.catalog, endpoints.s3
    if catalog is None:
        raise StorageError("this pipeline has no Iceberg catalog")
    properties = {
        "uri": catalog.sqlalchemy_url(),
        "warehouse": catalog.warehouse,
        "init_catalog_tables": "false",
        "s3.region": s3.region,
        "s3.access-key-id": s3.access_key_id,
        "s3.secret-access-key": None if s3.secret_access_key is None else str(s3.secret_access_key),
        "s3.endpoint": s3.url,
    }
    opened = SqlCatalog(catalog.name, **{key: value for key, value in properties.items() if value is not None})
    # It has no way to be closed: without a pool, nothing stays open.
    opened.engine.dispose()
    opened.engine = create_engine(catalog.sqlalchemy_url(), poolclass=NullPool)
    return opened


def archived_offsets(endpoints: Endpoints, topic: str) -> dict[int, int]:
    """Partition -> highest archived offset of `topic`'s table; empty when there is no table yet."""
    catalog = open_catalog(endpoints)
    try:
        table = catalog.load_table(topic)
    except (NoSuchTableError, NoSuchNamespaceError):
        return {}
    rows = table.scan(selected_fields=("kafka_partition", "kafka_offset")).to_arrow()
    highest = rows.group_by("kafka_partition").aggregate([("kafka_offset", "max")])
    return dict(zip(highest["kafka_partition"].to_pylist(), highest["kafka_offset_max"].to_pylist(), strict=True))
