"""`cdcpipe psql`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import click

from cdcpipe.cli._shared import open_stack, stack_option


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  cdcpipe psql                                     a prompt
  cdcpipe psql -c 'select count(*) from orders'
  cdcpipe psql --role witness -c '\\dRp+'
""",
)
@stack_option
@click.option("--role", type=click.Choice(["owner", "replication", "witness"]), default="owner", show_default=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(stack_folder: Path | None, role: str, arguments: tuple[str, ...]) -> None:
    """Open psql on the source database. Whatever is written there comes out of Kafka and into the archive."""
    from cdcpipe.stack.local.postgres import Postgres

    stack = open_stack(stack_folder)
    postgres = stack.endpoints.postgres
    who = postgres.roles[role]
    server = stack.components["postgres"]
    assert isinstance(server, Postgres)
    with tempfile.TemporaryDirectory() as folder:
        # A password file: neither argv nor environment shows the password to anybody.
        passfile = Path(folder) / "pgpass"
        with os.fdopen(os.open(passfile, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{postgres.host}:{postgres.port}:{postgres.database}:{who.name}:{who.password!s}\n")
        done = subprocess.run(
            [
                server.install / "bin" / "psql",
                *("-h", postgres.host, "-p", str(postgres.port), "-U", who.name, "-d", postgres.database),
                *arguments,
            ],
            env={**os.environ, "PGPASSFILE": str(passfile)},
            check=False,
        )
    click.get_current_context().exit(2 if done.returncode else 0)
