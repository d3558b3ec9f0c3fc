"""Artefacts are whole, verified, resumed and shared; what isn't is refused with a sentence."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cdcpipe.errors import ArtefactError, DiskFull, UsageError
from cdcpipe.stack.artefacts import Bundle, LockedFile, Store, load_lock
from cdcpipe.stack.artefacts.lock import load_wanted, repository_path, write_lock


class _Repository(ThreadingHTTPServer):
    """A Maven repository on loopback: real HTTP with ranges. `asked` keeps each request's path and range."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Repository

    def do_GET(self) -> None:
        path, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((path, wanted))
        if path not in self.server.content:
            self.send_error(404)
            return
        body = self.server.content[path]
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        self.wfile.write(body[begin:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def repository() -> Iterator[_Repository]:
    server = _Repository()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _offer(repository: _Repository, artifact: str, body: bytes) -> LockedFile:
    file = LockedFile(f"org.example:{artifact}:1.0", len(body), hashlib.sha256(body).hexdigest())
    repository.content[file.repository_path] = body
    return file


def _bundle(*files: LockedFile) -> Bundle:
    return Bundle("thing", "1.0", files, unpack=False)


def test_a_bundle_is_downloaded_once_and_laid_out_whole(repository: _Repository, tmp_path: Path) -> None:
    bundle = _bundle(_offer(repository, "a", b"a" * 1000), _offer(repository, "b", b"b" * 2000))
    store = Store(tmp_path, mirror=repository.url)
    assert store.missing_bytes([bundle]) == 3000
    folder = store.folders([bundle])["thing"]
    assert (folder / "a-1.0.jar").read_bytes() == b"a" * 1000
    assert store.missing_bytes([bundle]) == 0
    asked = len(repository.asked)
    assert Store(tmp_path, mirror=repository.url).folders([bundle])["thing"] == folder
    assert len(repository.asked) == asked


def test_a_file_that_is_not_what_the_lock_says_is_refused_and_not_kept(repository: _Repository, tmp_path: Path) -> None:
    file = _offer(repository, "a", b"right")
    repository.content[file.repository_path] = b"wrong"
    with pytest.raises(ArtefactError, match="is not what the lock says"):
        Store(tmp_path, mirror=repository.url).folders([_bundle(file)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"wrong"]


def test_a_damaged_file_in_the_cache_is_found_and_fetched_again(repository: _Repository, tmp_path: Path) -> None:
    bundle = _bundle(_offer(repository, "a", b"a" * 1000))
    jar = Store(tmp_path, mirror=repository.url).folders([bundle])["thing"] / "a-1.0.jar"
    with jar.open("r+b") as content:  # the same length and inode: only its bytes say so
        content.write(b"x")
    healed = Store(tmp_path, mirror=repository.url).folders([bundle])["thing"] / "a-1.0.jar"
    assert healed.read_bytes() == b"a" * 1000


def test_a_download_that_was_cut_off_goes_on_where_it_stopped(repository: _Repository, tmp_path: Path) -> None:
    file = _offer(repository, "a", bytes(range(256)) * 40)
    part = tmp_path / "files" / file.sha256 / "a-1.0.jar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(repository.content[file.repository_path][:7000])
    Store(tmp_path, mirror=repository.url).folders([_bundle(file)])
    assert repository.asked == [(file.repository_path, "bytes=7000-")]


def test_a_part_of_something_else_does_not_spoil_the_file(repository: _Repository, tmp_path: Path) -> None:
    file = _offer(repository, "a", b"a" * 10_000)
    part = tmp_path / "files" / file.sha256 / "a-1.0.jar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"z" * 5000)
    folder = Store(tmp_path, mirror=repository.url).folders([_bundle(file)])["thing"]
    assert (folder / "a-1.0.jar").read_bytes() == b"a" * 10_000


def test_without_a_network_and_with_a_cold_cache_the_error_names_host_and_cure(tmp_path: Path) -> None:
    file = LockedFile("org.example:a:1.0", 5, "0" * 64)
    with pytest.raises(ArtefactError, match=r"can't download `a-1.0.jar` from 127.0.0.1") as caught:
        Store(tmp_path, mirror="http://127.0.0.1:9").folders([_bundle(file)])
    assert "CDCPIPE_MAVEN_MIRROR" in (caught.value.hint or "")


def test_a_version_that_does_not_exist_is_named(repository: _Repository, tmp_path: Path) -> None:
    file = LockedFile("org.example:gone:1.0", 5, "0" * 64)
    with pytest.raises(ArtefactError, match=r"answers 404 for `org/example/gone/1.0/gone-1.0.jar`"):
        Store(tmp_path, mirror=repository.url).folders([_bundle(file)])


def test_two_processes_on_one_cache_share_the_download(repository: _Repository, tmp_path: Path) -> None:
    file = _offer(repository, "a", os.urandom(3_000_000))
    program = (
        "import sys; from pathlib import Path; from cdcpipe.stack.artefacts import *\n"
        "b = Bundle('thing', '1.0', (LockedFile(sys.argv[3], int(sys.argv[4]), sys.argv[5]),), unpack=False)\n"
        "print(Store(Path(sys.argv[1]), mirror=sys.argv[2]).folders([b])['thing'])"
    )
    command = [sys.executable, "-c", program, str(tmp_path), repository.url]
    command += [file.coordinate, str(file.size), file.sha256]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(folders) == 1
    assert repository.asked == [(file.repository_path, None)]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_a_full_disk_is_said_as_such(repository: _Repository, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine doesn't let root mount a small file system")
    try:
        with pytest.raises(DiskFull, match="no room left"):
            Store(small, mirror=repository.url).folders([_bundle(_offer(repository, "a", os.urandom(3_000_000)))])
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_every_bundle_that_is_wanted_is_locked_in_that_version() -> None:
    locked = {(bundle.name, bundle.version) for bundle in load_lock()}
    wanted = load_wanted()
    assert locked == {(name, version) for name, w in wanted.items() for version in (w.version, *w.also)}
    assert all(file.size > 0 and len(file.sha256) == 64 for bundle in load_lock() for file in bundle.files)


def test_what_one_version_needs_on_top_is_wanted_for_it_alone() -> None:
    orc = "org.apache.iceberg:iceberg-orc:1.11.0"
    assert orc in load_wanted({"iceberg": "1.11.0"})["iceberg"].coordinates
    assert not any("iceberg-orc" in each for each in load_wanted()["iceberg"].coordinates)


def test_kafka_is_of_one_version() -> None:
    kafka = next(bundle for bundle in load_lock() if bundle.name == "kafka")
    versions = {f.coordinate.split(":")[-1] for f in kafka.files if f.coordinate.startswith("org.apache.kafka:")}
    assert versions == {kafka.version}


def test_an_unknown_part_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no part of the stack is called `debezum`"):
        load_wanted({"debezum": "3.6.0.Final"})


def test_a_coordinate_has_the_path_that_maven_gives_it() -> None:
    assert repository_path("a.b:c:tar.gz:plugin:1") == "a/b/c/1/c-1-plugin.tar.gz"
    assert repository_path("a.b:c:1") == "a/b/c/1/c-1.jar"


def test_the_lock_is_written_as_it_is_read(tmp_path: Path) -> None:
    write_lock(load_lock(), tmp_path / "lock")
    from importlib import resources

    shipped = resources.files("cdcpipe.stack.artefacts") / "artefacts.lock"
    assert (tmp_path / "lock").read_text(encoding="utf-8") == shipped.read_text(encoding="utf-8")
