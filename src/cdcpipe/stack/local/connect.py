"""One worker of a distributed Kafka Connect cluster, with the plugins of the stack."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdcpipe.connect.properties import write_properties
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.connect.worker import WorkerConfig
from cdcpipe.errors import ConnectError
from cdcpipe.stack.artefacts import Store, link
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.local.auditing import access_log_properties
from cdcpipe.stack.local.java import JavaProcess, java_version, run_java

__all__ = ["ConnectWorker", "make_plugin_folder", "plugin_folder_name"]


class ConnectWorker(JavaProcess):
    """A worker. `secrets` (name -> value) go to a file that only we can read, which its config provider reads."""

    def __init__(
        self,
        *,
        jars: Path,
        version: str,
        folder: Path,
        log_folder: Path,
        port: int,
        config: WorkerConfig,
        secrets: Mapping[str, str],
        heap_mb: int,
        aot: Path,
        name: str = "connect",
    ) -> None:
        super().__init__(name, version, folder, log_folder, heap_mb=heap_mb, aot=aot)
        # Records live as long as a batch. A small young generation would be collected several times a second, and
        # what is in flight then would be copied each time.
        self.young_mb = heap_mb * 2 // 5
        self.port = port
        self._jars = jars
        self._config = config
        self._secrets = dict(secrets)
        self._changes: dict[str, str] = {}

    @property
    def url(self) -> str:
        """Root of its REST API."""
        return f"http://127.0.0.1:{self.port}"

    def reconfigure(self, changes: Mapping[str, str]) -> None:
        """Start with these worker settings from now on: how a misconfigured worker is made on purpose."""
        self._changes = dict(changes)

    @staticmethod
    def secrets_file(folder: Path) -> Path:
        """Where a worker in `folder` keeps its secrets: what references to them name."""
        return (folder / "secrets" / "pipeline.properties").resolve()

    def prepare(self) -> None:
        super().prepare()
        with (self.folder / "log4j2.properties").open("a", encoding="utf-8") as log4j:
            log4j.write(access_log_properties(self.log_folder))
        properties = write_properties({**self._config.to_config(), **self._changes})
        (self.folder / "worker.properties").write_text(properties, encoding="ascii")
        secrets = self.secrets_file(self.folder)
        secrets.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(secrets, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(write_properties(self._secrets))

    def launch(self) -> Sequence[str]:
        return [
            "-cp",
            f"{self._jars}/*",
            "org.apache.kafka.connect.cli.ConnectDistributed",
            str((self.folder / "worker.properties").resolve()),
        ]

    def loggers(self) -> Mapping[str, str]:
        # What each of these says at info comes with every start, commit or metadata refresh, and hides the rest.
        return {
            "org.apache.kafka.clients": "warn",
            "org.apache.kafka.common.config": "warn",
            "org.apache.kafka.connect.runtime.ConnectorConfig": "warn",
            "org.apache.kafka.connect.runtime.WorkerConfig": "warn",
            "org.reflections": "error",
            "org.eclipse.jetty": "warn",
            "org.glassfish.jersey": "error",
            "org.apache.hadoop": "error",
            "org.apache.iceberg": "warn",
        }

    def readiness(self) -> Readiness:
        try:
            with ConnectClient(self.url, timeout_seconds=3) as client:
                client.connectors()
        except ConnectError as error:
            return Readiness(False, error.message)
        return Readiness(True)


def plugin_folder_name(jars: Path, plugins: Mapping[str, Path]) -> str:
    """The derived folder's name for these plugins; changes with their content."""
    content = "\n".join(f"{name} {folder.name}" for name, folder in sorted(plugins.items()))
    return f"plugins-{hashlib.sha256(f'{java_version()} {jars.name} {content}'.encode()).hexdigest()[:16]}"


def make_plugin_folder(store: Store, jars: Path, plugins: Mapping[str, Path]) -> Path:
    """A plugin path of the folders in `plugins`, each with its manifests, made once.

    With manifests the worker finds plugins without scanning (`plugin.discovery=service_load`, KIP-898): it is up
    in a fifth of the time and memory.
    """

    def build(staging: Path) -> None:
        for name, folder in plugins.items():
            (staging / name).mkdir()
            for jar in sorted(folder.rglob("*.jar")):
                link(jar, staging / name / jar.name)
        run_java(
            "org.apache.kafka.tools.ConnectPluginPath",
            *("sync-manifests", "--plugin-path", str(staging)),
            class_path=f"{jars}/*",
            heap_mb=2048,  # the scan of all plugins, once, is what the manifests spare every start
            timeout_seconds=600,
        )

    return store.derived(plugin_folder_name(jars, plugins), build)
