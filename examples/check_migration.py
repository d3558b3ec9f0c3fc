"""Before a release: are the connector configs right, what will the migration do, is the archive equal to the table?

    python check_migration.py MIGRATION.sql public.orders connectors/*.json

Run it beside a stack of `cdcpipe up`, or, with [endpoints] in cdcpipe.toml, beside your own pipeline. It changes
nothing. Exit code 1 when something must not be deployed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg

from cdcpipe import Registry, plan_evolution, verify
from cdcpipe.connect.guards import check
from cdcpipe.connect.reading import read_files
from cdcpipe.schemas.catalog import Catalog
from cdcpipe.schemas.plan_text import to_text
from cdcpipe.settings import load_settings
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.targets import open_stack


def configs_are_right(paths: list[str], brokers: int) -> bool:
    """Lint the connector configs, for a cluster of so many brokers."""
    report = check(read_files(paths, brokers=brokers))
    for finding in report.findings:
        print(f"{finding.severity} {finding.rule} {finding.place.file}: {finding.message}\n  cure: {finding.cure}")
    return not report.errors


def migration_may_run(endpoints: Endpoints, path: Path) -> bool:
    """Plan the migration against the tables and the registry as they are now."""
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        catalog = Catalog.from_database(connection)
    with Registry(endpoints.registry_url) as registry:
        plan = plan_evolution(
            catalog,
            path.read_text(encoding="utf-8"),
            prefix=endpoints.topic_prefix,
            mode=registry.mode(),
            history=registry.history,
            publication=endpoints.publication,
        )
    print(to_text(plan))
    return plan.ok


def archive_equals(endpoints: Endpoints, table: str) -> bool:
    """Compare the archive with the table as it is now, while writers go on."""
    report = verify.state(endpoints, tables=[table])
    print(report.sentence())
    return report.verdict is verify.Verdict.PASS


def main() -> int:
    """All three, whatever the first one says."""
    migration, table, *configs = sys.argv[1:]
    settings = load_settings()
    stack = open_stack("existing" if settings.endpoints else "local", settings)
    endpoints = stack.endpoints
    answers = (
        configs_are_right(configs, stack.settings.brokers),
        migration_may_run(endpoints, Path(migration)),
        archive_equals(endpoints, table),
    )
    return 0 if all(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
