"""`cdcpipe schema`: what a migration will do, what is registered, and whether the two still fit."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdcpipe.cli._shared import echo_json, open_stack, stack_option
from cdcpipe.errors import ConfigError, StackNotRunning, UsageError

if TYPE_CHECKING:
    from cdcpipe.schemas.catalog import Catalog
    from cdcpipe.schemas.registry import Registry
    from cdcpipe.schemas.types import Modes
    from cdcpipe.stack.endpoints import Endpoints

MODES = ("NONE", "BACKWARD", "FORWARD", "FULL", "BACKWARD_TRANSITIVE", "FORWARD_TRANSITIVE", "FULL_TRANSITIVE")

_mode_option = click.option(
    "--mode", type=click.Choice(MODES, case_sensitive=False), help="Compatibility mode. Default: the registry's."
)
_registry_option = click.option("--registry", "registry_url", help="Base URL of a Confluent-compatible registry.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def command() -> None:
    """Know what a migration does to the pipeline before it is run."""


def _endpoints(folder: Path | None) -> Endpoints | None:
    """The stack's endpoints, if there is a stack; a folder that was named must hold one."""
    try:
        return open_stack(folder).endpoints
    except StackNotRunning:
        if folder is not None:
            raise
        return None


@contextlib.contextmanager
def _open_registry(url: str | None, endpoints: Endpoints | None) -> Iterator[Registry | None]:
    from cdcpipe.schemas.registry import Registry

    address = url or (endpoints.registry_url if endpoints is not None else None)
    if address is None:
        yield None
        return
    with Registry(address) as registry:
        yield registry


def _live_catalog(conninfo: str) -> Catalog:
    import psycopg

    from cdcpipe.errors import PostgresError
    from cdcpipe.schemas.catalog import Catalog

    try:
        with psycopg.connect(conninfo, connect_timeout=10, autocommit=True) as connection:
            return Catalog.from_database(connection)
    except psycopg.OperationalError as error:
        raise PostgresError(f"the database can't be reached: {str(error).strip()}") from error


def _connector_modes(path: Path | None) -> Modes:
    from cdcpipe.schemas.types import Modes

    if path is None:
        return Modes()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"`{path}` is not a connector configuration: {error}") from error
    return Modes.from_config(config.get("config", config))


def _catalog(tables: Path | None, database: str | None, endpoints: Endpoints | None) -> Catalog:
    from cdcpipe.schemas.catalog import Catalog

    if tables is not None:
        return Catalog.from_ddl(tables.read_text(encoding="utf-8"))
    conninfo = database or (endpoints.postgres.conninfo("owner") if endpoints is not None else None)
    if conninfo is None:
        raise UsageError(
            "the present tables are not known",
            hint="give their DDL with `--tables FILE`, or a database with `--database CONNINFO`, or bring up a stack",
        )
    return _live_catalog(conninfo)


@command.command(
    epilog="""\b
Examples:
  cdcpipe schema plan V7__add_note.sql
  cdcpipe schema plan V7__add_note.sql --tables schema.sql --mode FULL --format markdown
Exit codes: 0 it may be run, 1 it is refused or data would be misread or lost, 2 usage or environment."""
)
@click.argument("migration", type=click.File(encoding="utf-8"))
@click.option(
    "--tables", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="DDL of the present tables."
)
@click.option("--database", help="libpq connection string of the database; its catalog is read, nothing is written.")
@stack_option
@_registry_option
@_mode_option
@click.option("--prefix", help="Topic prefix of the connector. Default: the stack's, else `cdc`.")
@click.option("--publication", help="Publication that the connector reads. Default: the stack's.")
@click.option(
    "--connector", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Connector's JSON config."
)
@click.option("--format", "form", type=click.Choice(("text", "json", "markdown")), default="text", show_default=True)
@click.pass_context
def plan(
    context: click.Context,
    migration: Any,
    tables: Path | None,
    database: str | None,
    stack_folder: Path | None,
    registry_url: str | None,
    mode: str | None,
    prefix: str | None,
    publication: str | None,
    connector: Path | None,
    form: str,
) -> None:
    """Say what MIGRATION (a file, or - for stdin) will do to registry, topics, archive and readers."""
    from cdcpipe.schemas import plan_text
    from cdcpipe.schemas.compatibility import Mode
    from cdcpipe.schemas.migration import plan_evolution

    endpoints = None if tables is not None or database is not None else _endpoints(stack_folder)
    with _open_registry(registry_url, endpoints) as registry:
        chosen = Mode(mode.upper()) if mode else registry.mode() if registry is not None else Mode.FULL_TRANSITIVE
        found = plan_evolution(
            _catalog(tables, database, endpoints),
            migration.read(),
            prefix=prefix or (endpoints.topic_prefix if endpoints is not None else "cdc"),
            modes=_connector_modes(connector),
            mode=chosen,
            history=registry.history if registry is not None else None,
            publication=publication or (endpoints.publication if endpoints is not None else None),
        )
    if form == "json":
        echo_json(plan_text.to_json(found))
    else:
        click.echo(plan_text.to_markdown(found) if form == "markdown" else plan_text.to_text(found))
    context.exit(0 if found.ok else 1)


@command.command()
@click.argument("schemas", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--mode", type=click.Choice(MODES, case_sensitive=False), default="FULL_TRANSITIVE", show_default=True)
@_json_option
@click.pass_context
def check(context: click.Context, schemas: tuple[Path, ...], mode: str, as_json: bool) -> None:
    """Compare Avro schema files, OLD ... NEW: may NEW be registered after the others? Exit 1 if not."""
    from cdcpipe.schemas.avro import parse
    from cdcpipe.schemas.compatibility import Mode, check, misreadings

    if len(schemas) < 2:
        raise click.UsageError("give at least two schemas: OLD and NEW")
    trees = []
    for path in schemas:
        try:
            trees.append(parse(path.read_text(encoding="utf-8")))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error
    *history, new = trees
    verdict = check(new, history, Mode(mode.upper()))
    misread = [item.sentence for old in history for item in (*misreadings(new, old), *misreadings(old, new))]
    sentences = [conflict.sentence for conflict in verdict.conflicts]
    if as_json:
        echo_json({"compatible": verdict.compatible, "mode": mode, "conflicts": sentences, "misreadings": misread})
    else:
        click.echo(f"{'compatible' if verdict.compatible else 'not compatible'} in mode {mode.upper()}")
        for sentence in sentences:
            click.echo(f"  {sentence}")
        for sentence in dict.fromkeys(misread):
            click.echo(f"  misread: {sentence}")
    context.exit(0 if verdict.compatible else 1)


@command.command()
@click.argument("subject")
@stack_option
@_registry_option
@_json_option
def history(subject: str, stack_folder: Path | None, registry_url: str | None, as_json: bool) -> None:
    """Show the versions of SUBJECT, what each changed, and in which modes it fits those before it."""
    from cdcpipe.schemas.compatibility import Mode, check

    endpoints = None if registry_url else _endpoints(stack_folder)
    with _open_registry(registry_url, endpoints) as registry:
        if registry is None:
            raise UsageError("no registry is known", hint="give one with `--registry URL`, or bring up a stack")
        versions = registry.versions(subject)
        if not versions:
            raise UsageError(f"there is no subject `{subject}`", hint=f"subjects: {', '.join(registry.subjects())}")
    trees = [version.tree for version in versions]
    rows = []
    for index, version in enumerate(versions):
        fits = [mode.value for mode in Mode if check(trees[index], trees[:index], mode).compatible]
        changes = _difference(versions[index - 1].text, version.text) if index else ["first version"]
        rows.append({"version": version.version, "id": version.id, "fits": fits, "changes": changes})
    if as_json:
        echo_json({"subject": subject, "versions": rows})
        return
    for row in rows:
        click.echo(f"version {row['version']} (id {row['id']})")
        for change in row["changes"]:  # type: ignore[attr-defined] # a list, see above
            click.echo(f"  {change}")
        lacking = [mode for mode in MODES if mode not in row["fits"]]  # type: ignore[operator] # a list, see above
        if lacking:
            click.echo(f"  does not fit in {', '.join(lacking)}")


def _difference(old: str, new: str) -> list[str]:
    """What changed between two schemas, column by column."""
    from cdcpipe.schemas.avro import parse
    from cdcpipe.schemas.words import columns, describe

    before, after = columns(parse(old)), columns(parse(new))
    lines = [f"+ {name}: {describe(after[name])}" for name in after if name not in before]
    lines += [f"- {name}: {describe(before[name])}" for name in before if name not in after]
    for name in before:
        if name in after and before[name].key != after[name].key:
            lines.append(f"~ {name}: {describe(before[name])} -> {describe(after[name])}")
    return lines or ["annotations or order only"]


@command.command(
    epilog="""\b
Examples:
  cdcpipe schema guard --once
  cdcpipe schema guard --interval 10
Exit codes with --once: 0 all is registered or will be, 1 a table's next row stops the source or isn't captured."""
)
@stack_option
@click.option("--once", is_flag=True, help="Look once and exit.")
@click.option(
    "--interval", type=click.FloatRange(min=0.5), default=10.0, show_default=True, help="Seconds between looks."
)
@_json_option
@click.pass_context
def guard(context: click.Context, stack_folder: Path | None, once: bool, interval: float, as_json: bool) -> None:
    """Watch the live catalog for DDL that the registry will refuse, or that isn't captured."""
    stack = open_stack(stack_folder)
    said: set[str] = set()
    while True:
        findings = _look(stack.endpoints)
        if once:
            if as_json:
                echo_json(
                    {
                        "findings": [
                            {"table": f.table, "part": f.part, "state": f.state, "sentence": f.sentence}
                            for f in findings
                        ]
                    }
                )
            else:
                for finding in findings:
                    click.echo(f"{finding.state}: {finding.sentence}")
            context.exit(1 if any(f.state != "pending" for f in findings) else 0)
        for finding in findings:
            if finding.sentence not in said:
                click.echo(f"{time.strftime('%H:%M:%S')} {finding.state}: {finding.sentence}")
        said = {finding.sentence for finding in findings}
        time.sleep(interval)


def _look(endpoints: Endpoints) -> tuple[Any, ...]:
    from cdcpipe.schemas.guard import inspect
    from cdcpipe.schemas.registry import Registry

    catalog = _live_catalog(endpoints.postgres.conninfo("owner"))
    with Registry(endpoints.registry_url) as registry:
        return inspect(
            catalog,
            list(catalog.tables),
            prefix=endpoints.topic_prefix,
            modes=_connector_modes(None),
            history=registry.history,
            mode_of=registry.mode,
            publication=endpoints.publication,
        )
