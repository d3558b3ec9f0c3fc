"""Kafka's data and its release: an older one is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdcpipe.errors import StackError
from cdcpipe.stack.local.kafka import check_format
from cdcpipe.stack.local.stack import LocalStack


@pytest.mark.parametrize("version", ["4.3.0", "4.3.1", "4.4.0", "5.0.0", "10.0.0"])
def test_data_of_the_same_or_an_older_release_are_read(tmp_path: Path, version: str) -> None:
    check_format(tmp_path, version)  # nothing was formatted
    (tmp_path / "formatted-by").write_text("4.3.1", encoding="ascii")
    check_format(tmp_path, version)


@pytest.mark.parametrize("version", ["4.2.2", "3.9.1"])
def test_data_of_a_newer_release_are_refused(tmp_path: Path, version: str) -> None:
    (tmp_path / "formatted-by").write_text("4.3.1", encoding="ascii")
    with pytest.raises(StackError, match=r"are of Kafka 4\.3\.1, and Kafka .* can't read them") as caught:
        check_format(tmp_path, version)
    assert "--with kafka=4.3.1" in str(caught.value.hint)


def test_up_refuses_them_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "stack" / "kafka-1").mkdir(parents=True)
    (tmp_path / "stack" / "kafka-1" / "formatted-by").write_text("99.0.0", encoding="ascii")
    with pytest.raises(StackError, match="of Kafka 99"):
        LocalStack(tmp_path / "stack", cache=tmp_path / "cache").up()
    assert not (tmp_path / "stack" / "stack.json").exists()
    assert {each.name for each in (tmp_path / "stack").iterdir()} <= {"kafka-1", "lock"}
