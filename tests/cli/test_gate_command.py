"""`cdcpipe gate` as a whole command, where there is no pipeline to be judged: never a pass, and the reason on top."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

NOWHERE = """
[endpoints]
bootstrap_servers = "127.0.0.1:9"
connect_url = "http://127.0.0.1:9"
registry_url = "http://127.0.0.1:9"
publication = "cdc"
topic_prefix = "cdc"
slot = "cdc"
source = "source"
sink = "sink"

[endpoints.postgres]
port = 9
database = "shop"
owner = { name = "app", password = "x" }

[endpoints.s3]
url = "http://127.0.0.1:9"
bucket = "lake"
access_key_id = "x"
secret_access_key = "x"
"""


def gate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdcpipe", "gate", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=600)


def test_a_pipeline_that_does_not_answer_is_inconclusive_with_every_reason_on_top(tmp_path: Path) -> None:
    (tmp_path / "cdcpipe.toml").write_text(NOWHERE, encoding="utf-8")
    done = gate(
        tmp_path, "--target", "existing", "--json", "--junit", "j.xml", "--markdown", "m.md", "--html", "h.html"
    )
    assert done.returncode == 3, done.stderr
    matrix = json.loads(done.stdout)
    verdicts = {row["verdict"] for row in matrix["rows"]}
    assert len(matrix["rows"]) == 35
    assert verdicts <= {"inconclusive", "not applicable", "not run"}
    assert (matrix["verdict"], matrix["exit_code"]) == ("inconclusive", 3)
    assert "PostgreSQL: " in matrix["trouble"][0]
    text = (tmp_path / "m.md").read_text(encoding="utf-8")
    assert text.index("could not look at the pipeline") < text.index("R1.1")
    page = (tmp_path / "h.html").read_text(encoding="utf-8")
    assert page.index("could not look at the pipeline") < page.index("R1.1")
    assert "could not look at the pipeline" in done.stderr
    for server in ("PostgreSQL", "Kafka", "Kafka Connect", "the schema registry", "S3", "the Iceberg catalog"):
        assert f"{server}: " in done.stderr, f"nothing is said of {server}"
    suite = ET.parse(tmp_path / "j.xml").getroot().find("testsuite")
    assert suite is not None
    assert int(suite.get("failures", 0)) + int(suite.get("errors", 0)) > 20
    assert "gate --target existing" in matrix["facts"]["again"]
    assert "--seed 7" in matrix["facts"]["again"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "existing"), "[endpoints]"),
        (("--only", "R9.9"), "there is no criterion `R9.9`"),
        (("--target", "moon"), "'moon' is not one of"),
        (("--waivers", "absent.toml"), "absent.toml"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = gate(tmp_path, *options)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_setting_that_is_wrong_is_a_usage_error_and_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "cdcpipe.toml").write_text("[conformance]\nspeed = 9\n", encoding="utf-8")
    done = gate(tmp_path, "--only", "R1.1", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "conformance.speed" in done.stderr
