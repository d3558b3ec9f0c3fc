"""OpenLineage: which data sets the pipeline's two jobs read and write, and what each commit of the archive added.

    job `cdcpipe-source`   tables of PostgreSQL -> topics of Kafka
    job `cdcpipe-sink`     topics of Kafka -> Iceberg tables in S3; an event for each snapshot, with its rows and bytes

Events are made of `openlineage-python`'s classes, which are generated from OpenLineage's JSON Schema, and are checked
against them once more when they are JSON. They go to a file, a line each, or to an HTTP endpoint such as Marquez.

Debezium 3.7 can tell of itself, but what it needs for that, `debezium-openlineage-core` 3.7.0.Final, is not on Maven
Central; so both jobs are told from the pipeline's own facts: Connect's states, the catalog, the registry.
"""

from __future__ import annotations

from cdcpipe.observe.lineage.emit import Emitter, FileTarget, HttpTarget, target_of
from cdcpipe.observe.lineage.facts import Dataset, PipelineFacts, read_facts
from cdcpipe.observe.lineage.validate import problems

__all__ = ["Dataset", "Emitter", "FileTarget", "HttpTarget", "PipelineFacts", "problems", "read_facts", "target_of"]
