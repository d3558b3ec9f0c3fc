"""Files of a Maven repository, in parallel, resumed where they were cut off, verified before they are used."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import stamina

from cdcpipe.errors import ArtefactError, DiskFull, MissingExtra
from cdcpipe.events import Downloading, Listener, Notice
from cdcpipe.stack.artefacts.lock import LockedFile, repository_path

__all__ = ["Downloader", "default_repository", "sha256_of"]

_THREADS = 8
_CHUNK = 1 << 18
# Strongest first. Maven Central has had `.sha1` for every file from the beginning, the others for newer ones.
_CHECKSUMS = ("sha512", "sha256", "sha1")


def default_repository() -> str:
    """The address of Maven Central, as jgo knows it."""
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise MissingExtra("stack", "the local stack") from error
    return str(MavenContext().remote_repos["central"])


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Downloader:
    """Fetches into `folder/<sha256>/<name>`. One process at a time: the store holds a lock around it."""

    def __init__(self, folder: Path, repository: str, listener: Listener) -> None:
        self._folder = folder
        self._repository = repository.rstrip("/")
        self._listener = listener
        self._lock = threading.Lock()
        self._done = 0
        self._total = 0

    def path(self, file: LockedFile) -> Path:
        """Where `file` lies once it is here."""
        return self._folder / file.sha256 / file.name

    def fetch_all(self, files: Iterable[LockedFile]) -> None:
        """Bring every file that isn't here yet. Raises `ArtefactError` or `DiskFull`; what is whole stays."""
        unique = {file.sha256: file for file in files}.values()
        missing = [file for file in unique if not self._is_whole(file)]
        self._total = sum(file.size for file in missing)
        if not missing:
            return
        self._listener(Downloading(0, self._total, ""))
        with self._client() as client, ThreadPoolExecutor(_THREADS) as pool:
            # The largest first: they decide when all is over.
            tasks = [pool.submit(self._fetch, client, file) for file in sorted(missing, key=lambda f: -f.size)]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def lock_file(self, coordinate: str, *, demand_checksum: bool) -> LockedFile:
        """Fetch a file that no lock holds, check it against the repository's own checksum, give it with its sha256.

        Some mirrors serve no checksum for archives. With `demand_checksum` that is an `ArtefactError`; without
        (the person who makes the lock looks at it) a notice.
        """
        path = repository_path(coordinate)
        self._folder.mkdir(parents=True, exist_ok=True)
        staging = self._folder / f"{path.rpartition('/')[2]}.unlocked"
        staging.unlink(missing_ok=True)
        with self._client() as client:
            size = self._stream(client, path, staging)
            checksum = self._repository_checksum(client, path)
        if checksum is None:
            text = f"{self._host} has no checksum for `{coordinate}`"
            if demand_checksum:
                staging.unlink()
                raise ArtefactError(text, hint="put the version into artefacts.toml and lock it, or use another mirror")
            self._listener(Notice(f"{text}: locked as it was downloaded", warning=True))
        else:
            with staging.open("rb") as content:
                got = hashlib.file_digest(content, checksum[0]).hexdigest()
            if got != checksum[1]:
                staging.unlink()
                raise ArtefactError(f"`{coordinate}` has not the {checksum[0]} that its repository names")
        file = LockedFile(coordinate, size, sha256_of(staging))
        self.path(file).parent.mkdir(parents=True, exist_ok=True)
        staging.replace(self.path(file))
        return file

    def _client(self) -> httpx2.Client:
        # trust_env: a company's proxy and its certificates are honoured.
        return httpx2.Client(timeout=60, follow_redirects=True, trust_env=True)

    def _is_whole(self, file: LockedFile) -> bool:
        path = self.path(file)
        return path.exists() and path.stat().st_size == file.size and sha256_of(path) == file.sha256

    def _fetch(self, client: httpx2.Client, file: LockedFile) -> None:
        target = self.path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(target.suffix + ".part")
        for _ in range(2):  # a resumed file may join two versions of a broken mirror: once more from the beginning
            self._stream(client, file.repository_path, part, size=file.size)
            if part.stat().st_size == file.size and sha256_of(part) == file.sha256:
                part.replace(target)
                return
            part.unlink()
        raise ArtefactError(
            f"`{file.name}` from {self._host} is not what the lock says (sha256 differs)",
            hint="a proxy or mirror may have altered it; nothing of it was kept",
        )

    @property
    def _host(self) -> str:
        return urlsplit(self._repository).hostname or self._repository

    def _stream(self, client: httpx2.Client, path: str, part: Path, *, size: int | None = None) -> int:
        """Write a file of the repository to `part`, from where `part` ends. Gives the bytes that `part` has then."""
        try:
            for attempt in stamina.retry_context(on=httpx2.TransportError, attempts=4, timeout=300):
                with attempt:
                    return self._stream_once(client, path, part, size)
        except httpx2.TransportError as error:
            raise ArtefactError(
                f"can't download `{path.rpartition('/')[2]}` from {self._host}: {str(error) or type(error).__name__}",
                hint="check the network; HTTPS_PROXY names a proxy, CDCPIPE_MAVEN_MIRROR another repository",
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(
                    f"no room left for downloads in `{self._folder}`",
                    hint="make room, or set CDCPIPE_CACHE to a folder on another disk; what is whole stays",
                ) from error
            raise
        raise AssertionError("unreachable")

    def _stream_once(self, client: httpx2.Client, path: str, part: Path, size: int | None) -> int:
        have = part.stat().st_size if part.exists() else 0
        if size is not None and have == size:
            return have
        headers = {"Range": f"bytes={have}-"} if have else {}
        with client.stream("GET", f"{self._repository}/{path}", headers=headers) as response:
            if response.status_code not in (200, 206):
                if response.status_code == 416:  # `part` is longer than the file
                    part.unlink(missing_ok=True)
                    raise httpx2.ReadError("the part on disk was longer than the file", request=response.request)
                raise ArtefactError(
                    f"{self._host} answers {response.status_code} for `{path}`",
                    hint="is the version right? another repository is taken from CDCPIPE_MAVEN_MIRROR",
                )
            resumed = response.status_code == 206
            with part.open("ab" if resumed else "wb") as out:
                if resumed:
                    self._advance(have, path)
                for chunk in response.iter_bytes(_CHUNK):
                    out.write(chunk)
                    self._advance(len(chunk), path)
                out.flush()
                with contextlib.suppress(OSError):
                    os.fsync(out.fileno())
        return part.stat().st_size

    def _advance(self, count: int, path: str) -> None:
        with self._lock:
            self._done += count
            done = min(self._done, self._total)  # a second try may count some bytes twice
        self._listener(Downloading(done, self._total, path.rpartition("/")[2]))

    def _repository_checksum(self, client: httpx2.Client, path: str) -> tuple[str, str] | None:
        for kind in _CHECKSUMS:
            response = client.get(f"{self._repository}/{path}.{kind}")
            if response.status_code == 200 and response.text.strip():
                return kind, response.text.split()[0].lower()
        return None
