"""`cdcpipe artefacts`."""

from __future__ import annotations

from pathlib import Path

import click

from cdcpipe.cli._shared import echo_json, progress


@click.group()
def command() -> None:
    """The jars and archives of the local stack: what is locked, and how to lock anew."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, every file with its sha256.")
def list_(as_json: bool) -> None:
    """Show the locked bundles."""
    from cdcpipe.stack.artefacts import load_lock

    if as_json:
        bundles = [
            {
                "name": bundle.name,
                "version": bundle.version,
                "files": [{"coordinate": f.coordinate, "bytes": f.size, "sha256": f.sha256} for f in bundle.files],
            }
            for bundle in load_lock()
        ]
        echo_json({"schema": "cdcpipe.artefacts/1", "bundles": bundles})
        return
    for bundle in load_lock():
        click.echo(f"{bundle.name:<16} {bundle.version:<14} {len(bundle.files):>3} files {bundle.size / 1e6:8.1f} MB")


@command.command("fetch")
def fetch() -> None:
    """Download and verify everything that `cdcpipe up` needs, now."""
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.artefacts import Store

    settings = load_settings()
    store = Store(settings.cache, mirror=settings.maven_mirror, listener=progress())
    for name, folder in store.folders(store.select().values()).items():
        click.echo(f"{name:<16} {folder}")


@command.command("lock")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to write. Default: the package.")
def lock(output: Path | None) -> None:
    """Resolve artefacts.toml anew and write artefacts.lock. For an upgrade: change a version, lock, run the tests."""
    from cdcpipe.settings import load_settings
    from cdcpipe.stack import artefacts
    from cdcpipe.stack.artefacts import Store

    settings = load_settings()
    target = output or Path(artefacts.__file__).with_name("artefacts.lock")
    store = Store(settings.cache, mirror=settings.maven_mirror, listener=progress())
    for bundle in store.make_lock(target):
        click.echo(f"{bundle.name:<16} {bundle.version:<14} {len(bundle.files):>3} files {bundle.size / 1e6:8.1f} MB")
    click.echo(f"wrote {target}", err=True)
