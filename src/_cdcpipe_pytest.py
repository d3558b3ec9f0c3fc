"""The pytest plugin (entry point `pytest11`): options, the marker `criterion`, and fixtures of a real pipeline.

It lies outside the package so that it costs nothing where it isn't used: nothing of `cdcpipe` is imported before a
fixture is asked for or a test with a criterion is collected.

    def test_orders_arrive(pipeline, workload, verify):
        with workload(rate=500, seconds=10):
            ...
        assert verify.events().verdict == "pass"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.faulting import Faults
    from cdcpipe.conformance.pipeline import Pipeline
    from cdcpipe.conformance.verifying import Verifier
    from cdcpipe.ledger.wal import WalWitness
    from cdcpipe.settings import Settings
    from cdcpipe.stack.targets import ManagedStack
    from cdcpipe.workload import Workload

_TARGETS = ("local", "containers", "kind", "existing")
_LEVELS = ("at_least_once", "effectively_once", "exactly_once")
_RECORDER = "cdcpipe-conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cdcpipe", "change data capture (cdcpipe)")
    group.addoption(
        "--target",
        dest="cdcpipe_target",
        choices=_TARGETS,
        default="local",
        help="which pipeline the fixtures give: a new one on this machine (local), in containers, on kind, or one that "
        "is there already (existing: the endpoints of cdcpipe.toml or CDCPIPE_ENDPOINTS__*)",
    )
    group.addoption(
        "--level", dest="cdcpipe_level", choices=_LEVELS, default="exactly_once", help="which repetitions are allowed"
    )
    group.addoption("--seed", dest="cdcpipe_seed", type=int, default=7, help="seed of every load and choice (7)")
    group.addoption(
        "--cdcpipe-config", dest="cdcpipe_config", metavar="FILE", help="a settings file instead of ./cdcpipe.toml"
    )
    group.addoption(
        "--cdcpipe-stack",
        dest="cdcpipe_stack",
        metavar="FOLDER",
        help="with --target local: the stack in this folder, brought up if need be and left running",
    )
    group.addoption(
        "--allow-faults",
        dest="cdcpipe_allow_faults",
        action="store_true",
        help="let tests kill components of an existing pipeline (a stack of our own is always broken)",
    )
    group.addoption(
        "--allow-inconclusive",
        dest="cdcpipe_allow_inconclusive",
        action="store_true",
        help="a criterion that can't be judged is a skipped test, not a failed one",
    )
    group.addoption(
        "--waivers", dest="cdcpipe_waivers", metavar="FILE", help="accepted failures (default: ./waivers.toml)"
    )
    group.addoption(
        "--conformance-report", dest="cdcpipe_report", metavar="FOLDER", help="also write conformance-report.* here"
    )
    group.addoption(
        "--cdcpipe-only", dest="cdcpipe_only", action="append", metavar="CRITERION", help="run the tests of this alone"
    )
    group.addoption("--cdcpipe-replay", dest="cdcpipe_replay", help="the command that the report names for a replay")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "criterion(*ids): the criteria (R1.1 to R7.5) that the test shows; its outcome is their verdict"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before anything is deselected: which tests there are."""
    marked = [item for item in items if item.get_closest_marker("criterion") is not None]
    if marked:
        recorder = _recorder(config)
        recorder.expect(marked)
        left_out = recorder.left_out(marked)
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


def _recorder(config: pytest.Config) -> Any:
    from cdcpipe.conformance.recorder import Recorder

    known = config.pluginmanager.get_plugin(_RECORDER)
    if isinstance(known, Recorder):
        return known
    option = config.getoption
    recorder = Recorder(
        config,
        target=option("cdcpipe_target"),
        level=option("cdcpipe_level"),
        seed=option("cdcpipe_seed"),
        runs=_settings(config).runs,
    )
    config.pluginmanager.register(recorder, _RECORDER)
    return recorder


def _settings(config: pytest.Config) -> Settings:
    from cdcpipe.errors import SettingsError
    from cdcpipe.settings import load_settings

    try:
        return load_settings(file=config.getoption("cdcpipe_config"))
    except SettingsError as error:
        raise pytest.UsageError(f"{error.message}\n{error.detail or ''}") from error


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Iterator[ManagedStack]:
    """The pipeline's servers (`cdcpipe.stack.stack.Stack`), of the kind that `--target` names, for the session."""
    from cdcpipe.stack.targets import running_stack
    from cdcpipe.workload.shop import Shop

    target, folder = pytestconfig.getoption("cdcpipe_target"), pytestconfig.getoption("cdcpipe_stack")
    with running_stack(target, _settings(pytestconfig), folder=folder, tables=Shop.TABLES) as running:
        recorder = pytestconfig.pluginmanager.get_plugin(_RECORDER)
        if recorder is not None:
            recorder.components = running.components
        yield running


@pytest.fixture(scope="session")
def pipeline(pytestconfig: pytest.Config, stack: ManagedStack) -> Iterator[Pipeline]:
    """What a test does with the pipeline: make tables that vanish again, ask its parts, wait until it has settled."""
    from cdcpipe.conformance.pipeline import Pipeline

    option = pytestconfig.getoption
    with Pipeline(stack, _settings(pytestconfig), level=option("cdcpipe_level"), seed=option("cdcpipe_seed")) as found:
        recorder = pytestconfig.pluginmanager.get_plugin(_RECORDER)
        if recorder is not None:
            recorder.versions.update(found.versions())
            recorder.bounds.update(found.bounds)
        yield found


@pytest.fixture(scope="session")
def workload(pipeline: Pipeline) -> Callable[..., Workload]:
    """`workload(rate=500, seconds=10)`: the shop's load on this pipeline, a context manager with `wait()`.

    The shop's tables are made on first use and removed at the end of the session where the pipeline isn't ours.
    """
    return pipeline.workload


@pytest.fixture
def wal_witness(pipeline: Pipeline, tmp_path: Any) -> Iterator[WalWitness]:
    """A replication slot of our own, open from here on: `wal_witness.stop()` gives the wal ledger. It drops itself."""
    with pipeline.witness(tmp_path / "wal") as witness:
        yield witness


@pytest.fixture
def verify(pipeline: Pipeline, tmp_path: Any) -> Iterator[Verifier]:
    """Witnesses from here on: `verify.events()` waits until the pipeline has settled and compares every change,
    `verify.state()` compares the archive with the tables. Both give a `Report`."""
    from cdcpipe.conformance.verifying import Verifier

    with Verifier(pipeline, tmp_path / "verify") as verifier:
        yield verifier


@pytest.fixture
def faults(pytestconfig: pytest.Config, pipeline: Pipeline) -> Iterator[Faults]:
    """`faults.kill("connect")`, `.pause`, `.stop`: heals what it broke when the test ends."""
    from cdcpipe.conformance.faulting import Faults

    allowed = pytestconfig.getoption("cdcpipe_allow_faults") or pytestconfig.getoption("cdcpipe_target") != "existing"
    with Faults(pipeline, allowed=allowed) as made:
        yield made


@pytest.fixture(scope="session")
def probe(pipeline: Pipeline) -> Callable[..., float]:
    """`probe()` commits a row and waits until it came out of Kafka, with `archive=True` out of S3: the seconds."""
    return pipeline.probe


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """Where a test with a criterion leaves its figures; without them its pass is inconclusive."""
    found: Evidence = _recorder(request.config).evidence(request.node)
    return found
