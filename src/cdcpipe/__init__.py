"""Change data capture that can be trusted.

`cdcpipe` runs a real pipeline (PostgreSQL -> Debezium -> Kafka -> Parquet on S3), breaks it on purpose,
and proves, event by event, that nothing was lost, repeated, reordered or altered.

    $ cdcpipe demo            # the whole pipeline on this machine, judged, in two minutes

Public names are resolved on first use (PEP 562), so that `import cdcpipe` loads neither Arrow, DuckDB
nor a Kafka client.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

# name -> module that defines it. Add a public name here and in `__all__`; a test compares the two.
_EXPORTS: dict[str, str] = {
    "CdcpipeError": "cdcpipe.errors",
    "Registry": "cdcpipe.schemas.registry",
    "plan_evolution": "cdcpipe.schemas.migration",
}

__all__ = ["CdcpipeError", "Registry", "__version__", "plan_evolution"]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'cdcpipe' has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
