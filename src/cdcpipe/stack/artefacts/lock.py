"""What the lock holds, and how it is made out of `artefacts.toml`."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from cdcpipe.errors import ArtefactError, MissingExtra, UsageError

__all__ = [
    "Bundle",
    "LockedFile",
    "Wanted",
    "load_lock",
    "load_wanted",
    "locked_version",
    "resolve",
    "wheel_path",
    "write_lock",
]

_SCHEMA = "cdcpipe.artefacts/1"


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file of a Maven repository: `coordinate` is `group:artifact[:extension[:classifier]]:version`.

    Or one of a Python package that is installed beside us: `wheel:<package>:<path in the wheel>`.
    """

    coordinate: str
    size: int
    sha256: str

    @property
    def wheel(self) -> tuple[str, str] | None:
        """Package and path of a file that comes with a wheel; None for one of a Maven repository."""
        kind, _, rest = self.coordinate.partition(":")
        package, _, path = rest.partition(":")
        return (package, path) if kind == "wheel" else None

    @property
    def repository_path(self) -> str:
        """Its path below the root of a Maven repository, or within its wheel."""
        return self.wheel[1] if self.wheel else repository_path(self.coordinate)

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.repository_path.rpartition("/")[2]


def repository_path(coordinate: str) -> str:
    """Where a Maven repository keeps `coordinate`."""
    group, artifact, *rest = coordinate.split(":")
    version = rest.pop()
    extension = rest[0] if rest else "jar"
    classifier = f"-{rest[1]}" if len(rest) > 1 else ""
    return f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}{classifier}.{extension}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one component needs: jars that lie in one folder, or one archive that is unpacked there.

    `locked` is False for a version that the lock doesn't hold: its files were checked against the
    repository's own checksums only.
    """

    name: str
    version: str
    files: tuple[LockedFile, ...]
    unpack: bool
    locked: bool = True

    @property
    def digest(self) -> str:
        """Names the content: two bundles with one digest are the same bytes."""
        lines = sorted(f"{file.name} {file.sha256}" for file in self.files)
        return hashlib.sha256("\n".join([str(self.unpack), *lines]).encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.files if not file.wheel)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bundle as `artefacts.toml` wants it, with `{version}` filled in."""

    name: str
    version: str
    coordinates: tuple[str, ...]
    archive: str | None
    without: tuple[str, ...]
    also: tuple[str, ...]
    wheel: str | None
    wheel_files: tuple[str, ...]


def _read(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def load_wanted(versions: dict[str, str] | None = None) -> dict[str, Wanted]:
    """Bundle name -> what `artefacts.toml` wants, with other versions for those in `versions`."""
    versions = versions or {}
    table = tomllib.loads(_read("artefacts.toml"))
    unknown = sorted(set(versions) - set(table))
    if unknown:
        raise UsageError(
            f"no part of the stack is called `{unknown[0]}`",
            hint=f"`--with NAME=VERSION` knows: {', '.join(table)}",
        )
    wanted = {}
    for name, entry in table.items():
        version = versions.get(name, entry["version"])
        archive = entry.get("archive")
        coordinates = (*entry.get("coordinates", ()), *entry.get("only", {}).get(version, ()))
        wanted[name] = Wanted(
            name=name,
            version=version,
            coordinates=tuple(text.format(version=version) for text in coordinates),
            archive=archive.format(version=version) if archive else None,
            without=tuple(entry.get("without", ())),
            also=tuple(entry.get("also", ())),
            wheel=entry.get("wheel"),
            wheel_files=tuple(text.format(version=version) for text in entry.get("wheel_files", ())),
        )
    return wanted


@functools.cache
def load_lock() -> tuple[Bundle, ...]:
    """Every bundle that the package's own lock holds. The first of a name is the one that is used by default."""
    content = json.loads(_read("artefacts.lock"))
    assert content["schema"] == _SCHEMA
    return tuple(
        Bundle(
            name=entry["name"],
            version=entry["version"],
            files=tuple(LockedFile(*row) for row in entry["files"]),
            unpack=entry["unpack"],
        )
        for entry in content["bundles"]
    )


def locked_version(name: str) -> str:
    """The version of bundle `name` that is used by default."""
    return next(bundle.version for bundle in load_lock() if bundle.name == name)


def resolve(wanted: Wanted, *, poms: Path, repository: str, fetch: Callable[[str], LockedFile]) -> Bundle:
    """Resolve `wanted` to files: the graph by jgo, each file's checksum by `fetch`.

    Every root is given raw, so that its own POM isn't taken as a bill of materials for the others: with
    log4j's, kafka-clients would become an older one.
    """
    if wanted.archive:
        coordinates: Iterable[str] = [wanted.archive]
    else:
        coordinates = _graph(wanted, poms, repository)
    files = [fetch(coordinate) for coordinate in coordinates]
    files += [_wheel_file(f"wheel:{wanted.wheel}:{path}") for path in wanted.wheel_files]
    return Bundle(wanted.name, wanted.version, tuple(files), unpack=wanted.archive is not None, locked=False)


def wheel_path(file: LockedFile) -> Path:
    """Where the file of an installed package lies; it need not be what the lock says. Raises `ArtefactError`."""
    assert file.wheel
    package, path = file.wheel
    try:
        found = Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError as error:
        raise MissingExtra("stack", f"`{file.name}`, which comes with the package `{package}`") from error
    if not found.is_file():
        version = metadata.version(package)
        raise ArtefactError(
            f"`{package}` {version} has no `{file.name}`", hint=f"install the version of `{package}` that cdcpipe names"
        )
    return found


def _wheel_file(coordinate: str) -> LockedFile:
    content = wheel_path(LockedFile(coordinate, 0, "")).read_bytes()
    return LockedFile(coordinate, len(content), hashlib.sha256(content).hexdigest())


def _graph(wanted: Wanted, poms: Path, repository: str) -> list[str]:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise MissingExtra("stack", "resolving Maven coordinates") from error
    context = MavenContext(repo_cache=poms, remote_repos={"repository": repository}, timeout=60)
    try:
        roots = [context.create_dependency(f"{coordinate}!") for coordinate in wanted.coordinates]
        inputs, transitive = context.resolver.resolve(roots)
    except Exception as error:
        # jgo raises RuntimeError, ValueError and what `requests` raises; none of it says which bundle was asked.
        raise ArtefactError(
            f"{wanted.name} {wanted.version} can't be resolved: {error}",
            hint="check the version, the network and `CDCPIPE_MAVEN_MIRROR`",
        ) from error
    found = set()
    for node in [*inputs, *transitive]:
        if any(fnmatch.fnmatch(f"{node.groupId}:{node.artifactId}", pattern) for pattern in wanted.without):
            continue
        middle = f":{node.type}:{node.classifier}" if node.classifier else ""
        found.add(f"{node.groupId}:{node.artifactId}{middle}:{node.version}")
    return sorted(found)


def write_lock(bundles: Sequence[Bundle], path: Path) -> None:
    """Write the lock: a line a file, so that an upgrade reads well in a diff."""
    entries = []
    for bundle in bundles:
        head = json.dumps({"name": bundle.name, "version": bundle.version, "unpack": bundle.unpack})
        rows = ",\n".join(f"    {json.dumps([file.coordinate, file.size, file.sha256])}" for file in bundle.files)
        entries.append(f'  {head[:-1]}, "files": [\n{rows}\n  ]}}')
    text = f'{{"schema": "{_SCHEMA}", "bundles": [\n' + ",\n".join(entries) + "\n]}\n"
    path.write_text(text, encoding="utf-8", newline="\n")
