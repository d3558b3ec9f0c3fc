"""The gate as another team has it: the package installed from its wheel, called outside of the repository, against a
pipeline that was started by hand and that it knows only by its endpoints and by its owner's commands."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
from tests.gating import gate

from cdcpipe.stack.describe import settings_toml
from cdcpipe.stack.local.stack import LocalStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]

# What somebody who runs a pipeline would have as systemctl, docker or kubectl: the owner's own programs.
CONTROL = """
import sys
from pathlib import Path
from cdcpipe.settings import load_settings
from cdcpipe.stack.local.stack import LocalStack
name, verb = sys.argv[1:]
component = LocalStack(Path({folder!r}), cache=load_settings().cache).components[name]
if verb == "ready":
    sys.exit(0 if component.readiness().ready else 1)
if verb == "memory":
    print(component.memory_bytes())
elif verb == "cpu":
    print(component.cpu_seconds())
elif verb == "log":
    print("\\n".join(component.log_tail(2000)))
else:
    getattr(component, verb)()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment with the wheel in it, and no trace of the source tree."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=300)
    python = folder / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    # The dependencies are those of this session: the path alone, so that its editable cdcpipe is not seen.
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "venv" / "bin"


def test_the_wheel_holds_the_suite_and_the_plugin(installed: Path, tmp_path: Path) -> None:
    program = (
        "import cdcpipe, _cdcpipe_pytest\n"
        "from cdcpipe.conformance.criteria import load_criteria, suite_folder\n"
        "suite = suite_folder()\n"
        "print(cdcpipe.__file__, suite, len(load_criteria().rows), len(list(suite.glob('test_r*.py'))))"
    )
    done = subprocess.run(
        [str(installed / "python"), "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    package, suite, rows, tests = done.stdout.split()
    assert str(installed.parent) in package
    assert str(installed.parent) in suite
    assert (rows, tests) == ("35", "7")


def test_the_load_is_judged_without_what_was_archived_before_it(
    stack: LocalStack, installed: Path, tmp_path: Path
) -> None:
    load = "\n[conformance]\nrate = 400\nseconds = 10\nwarm_up = 5\n"
    (tmp_path / "cdcpipe.toml").write_text(settings_toml(stack.endpoints, stack.settings.slot) + load, encoding="utf-8")
    asked = ("R1.3", "R1.4", "R2.5", "R3.1", "R3.2", "R3.3")
    only = (part for id_ in asked for part in ("--only", id_))
    matrix = gate([str(installed / "cdcpipe")], tmp_path, "--target", "existing", *only)
    assert {id_: matrix.told[id_] for id_ in asked} == dict.fromkeys(asked, "pass: ")


@pytest.mark.slow
def test_an_existing_pipeline_is_judged_as_a_new_one_is_and_nothing_is_left(
    stack: LocalStack, installed: Path, tmp_path: Path
) -> None:
    from cdcpipe.stack.belongings import traces

    control = tmp_path / "control.py"
    control.write_text(CONTROL.format(folder=str(stack.folder)), encoding="utf-8")
    settings = settings_toml(stack.endpoints, stack.settings.slot)
    for name in stack.components:
        settings += f"\n[endpoints.components.{name}]\n"
        for verb in ("kill", "start", "stop", "pause", "resume", "ready", "memory", "cpu", "log"):
            settings += f'{verb} = "{sys.executable} {control} {name} {verb}"\n'
    settings += "\n[conformance]\nrate = 400\nseconds = 20\nwarm_up = 0\n"
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "cdcpipe.toml").write_text(textwrap.dedent(settings), encoding="utf-8")
    before = traces(stack.endpoints, "")

    matrix = gate([str(installed / "cdcpipe")], folder, "--target", "existing", "--allow-faults")
    # At this rate the first two can't be shown. The others need what no endpoint gives: a worker that is started with
    # another trust store, and the servers' own logs.
    unsure = {"R2.1", "R2.2", "R7.2", "R7.5"}
    assert {id_: text for id_, text in matrix.of("inconclusive").items() if id_ not in unsure} == {}
    assert matrix.of("fail", "not run") == {}
    assert len(matrix.of("pass")) >= 23
    assert matrix.exit_code == 3

    after = traces(stack.endpoints, "")
    for what in ("tables", "types", "slots", "topics", "archive tables"):
        assert after.get(what) == before.get(what), what
