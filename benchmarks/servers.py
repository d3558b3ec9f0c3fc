"""The server that benchmarks without a pipeline share: a PostgreSQL of their own, gone when they end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdcpipe.stack.local.postgres import Postgres, new_role
from cdcpipe.stack.local.state import claim_ports


@contextmanager
def postgres() -> Iterator[Postgres]:
    """It runs; superuser and owner is role `admin`. What lies in its parent folder goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="cdcpipe-bench-", dir="/var/tmp"))
    folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
    [port] = claim_ports(("postgres",), {}, {}).values()
    server = Postgres(folder / "postgres", folder / "log", port=port, admin=new_role("admin"))
    server.start()
    try:
        server.await_ready()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
