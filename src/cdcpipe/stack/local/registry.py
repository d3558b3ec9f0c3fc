"""Apicurio Registry, with its Confluent-compatible API at `/apis/ccompat/v7`.

It stores in PostgreSQL, in a database of its own, so that schemas outlive it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import httpx2

from cdcpipe.connect.properties import write_properties
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.endpoints import Role
from cdcpipe.stack.local.java import JavaProcess

__all__ = ["ApicurioRegistry"]


class ApicurioRegistry(JavaProcess):
    """One registry server. `database` is `host:port/name` of its store."""

    def __init__(
        self,
        *,
        home: Path,
        version: str,
        folder: Path,
        log_folder: Path,
        port: int,
        management_port: int,
        database: str,
        role: Role,
        heap_mb: int,
        aot: Path,
    ) -> None:
        super().__init__("registry", version, folder, log_folder, heap_mb=heap_mb, aot=aot)
        self.port = port
        self._management_port = management_port
        self._home = home
        self._database = database
        self._role = role

    @property
    def url(self) -> str:
        """Root of the server."""
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        # Quarkus reads `config/application.properties` below its working directory: no secret in argv or environment.
        config = self.folder / "config" / "application.properties"
        config.parent.mkdir(exist_ok=True)
        settings = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": str(self.port),
            "quarkus.management.host": "127.0.0.1",
            "quarkus.management.port": str(self._management_port),
            "quarkus.log.console.level": "WARN",
            "quarkus.log.file.enabled": "true",
            "quarkus.log.file.enable": "true",
            "quarkus.log.file.path": str((self.log_folder / "registry.log").resolve()),
            "quarkus.log.file.rotation.max-file-size": "10M",
            "quarkus.log.file.rotation.max-backup-index": "4",
            "apicurio.storage.kind": "sql",
            "apicurio.storage.sql.kind": "postgresql",
            "apicurio.datasource.url": f"jdbc:postgresql://{self._database}",
            "apicurio.datasource.username": self._role.name,
            "apicurio.datasource.password": str(self._role.password),
            "apicurio.datasource.jdbc.initial-size": "2",
            "apicurio.datasource.jdbc.min-size": "2",
            "apicurio.datasource.jdbc.max-size": "8",
        }
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(write_properties(settings))

    def launch(self) -> Sequence[str]:
        return ["-jar", str(self._home / "quarkus-run.jar")]

    def readiness(self) -> Readiness:
        try:
            answer = httpx2.get(f"{self.url}/apis/ccompat/v7/subjects", timeout=2, trust_env=False)
        except httpx2.HTTPError as error:
            return Readiness(False, f"{self.url} doesn't answer: {type(error).__name__}")
        return Readiness(answer.status_code == 200, f"{self.url} answers {answer.status_code}")
