"""A stack as somebody would describe it who only knows where its servers are."""

from __future__ import annotations

import textwrap

from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.local.stack import LocalStack


def described(stack: LocalStack) -> str:
    """`cdcpipe.toml` of a stack, as its owner would write it."""
    endpoints = stack.endpoints
    postgres, s3, catalog = endpoints.postgres, endpoints.s3, endpoints.catalog
    assert catalog is not None
    owner, witness, keeper = postgres.roles["owner"], postgres.roles["witness"], catalog.postgres.roles["catalog"]
    return textwrap.dedent(f"""
        [endpoints]
        bootstrap_servers = "{endpoints.bootstrap_servers}"
        connect_url = "{endpoints.connect_url}"
        registry_url = "{endpoints.registry_url}"
        publication = "{endpoints.publication}"
        topic_prefix = "{endpoints.topic_prefix}"
        slot = "{stack.settings.slot}"
        source = "{SOURCE}"
        sink = "{SINK}"

        [endpoints.postgres]
        port = {postgres.port}
        database = "{postgres.database}"
        owner = {{ name = "{owner.name}", password = "{owner.password!s}" }}
        witness = {{ name = "{witness.name}", password = "{witness.password!s}" }}

        [endpoints.s3]
        url = "{s3.url}"
        bucket = "{s3.bucket}"
        access_key_id = "{s3.access_key_id}"
        secret_access_key = "{s3.secret_access_key!s}"

        [endpoints.catalog]
        warehouse = "{catalog.warehouse}"
        port = {postgres.port}
        database = "{catalog.postgres.database}"
        role = {{ name = "{keeper.name}", password = "{keeper.password!s}" }}
    """)
