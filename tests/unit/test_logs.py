"""Logs: records of real servers are told apart and merged, and ours hold what they should and no credential."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cdcpipe.observe import logs
from cdcpipe.observe.logs import Follower, bound, hide, merged, parse, write_to
from cdcpipe.stack.endpoints import Secret

log = logging.getLogger("cdcpipe.test")


# Lines as the servers of the local stack write them.
@pytest.mark.parametrize(
    ("text", "at", "level"),
    [
        ("2026-11-24 22:22:42.566 UTC [28250] a@b ERROR:  no", datetime(2026, 11, 24, 22, 22, 42, 566000), "ERROR"),
        ("2026-11-24 22:22:42.566 UTC [28250] @ LOG:  listening", datetime(2026, 11, 24, 22, 22, 42, 566000), "INFO"),
        ("2026-11-24T23:16:34.112Z WARN  [main] org.apache: x", datetime(2026, 11, 24, 23, 16, 34, 112000), "WARN"),
        (
            '{"timestamp":"2026-11-24T23:04:51.367331642Z","level":"INFO","message":"m"}',
            datetime(2026, 11, 24, 23, 4, 51, 367331),
            "INFO",
        ),
        ("[2026-11-24T23:04:21Z] Unable to send logs", datetime(2026, 11, 24, 23, 4, 21), "INFO"),
    ],
)  # fmt: skip
def test_a_record_of_each_server_has_its_time_and_level(text: str, at: datetime, level: str) -> None:
    line = parse("x", text)
    assert line is not None
    assert (line.at, line.level) == (at.replace(tzinfo=UTC), level)


def test_a_record_of_the_s3_server_has_this_year_or_last() -> None:
    now = datetime.now().astimezone()
    line = parse("s3", f"W{now:%m%d %H:%M:%S}.100200 audit_fluent.go:81 Error")
    assert line is not None
    assert line.at is not None
    assert abs((line.at - now).total_seconds()) < 2
    assert line.bad
    late = parse("s3", "I1231 23:59:59.000000 x.go:1 m")
    assert late is not None
    assert late.at is not None
    assert late.at < datetime.now(UTC)


def test_a_stack_trace_belongs_to_the_record_before_it(tmp_path: Path) -> None:
    path = tmp_path / "connect.log"
    path.write_text(
        "2026-11-24T10:00:00.000Z ERROR [t] a: first\njava.lang.Error: x\n\tat y\n"
        "2026-11-24T10:00:01.000Z INFO  [t] a: second\n2026-11-24T10:00:02.000Z INFO  [t] a: half"
    )
    follower = Follower("connect", lambda: [path])
    lines = [*follower.poll(), *follower.flush()]
    assert [line.text.splitlines() for line in lines] == [
        ["2026-11-24T10:00:00.000Z ERROR [t] a: first", "java.lang.Error: x", "\tat y"],
        ["2026-11-24T10:00:01.000Z INFO  [t] a: second"],
    ]
    with path.open("a") as file:
        file.write(" line is whole now\n")
    assert [line.text for line in [*follower.poll(), *follower.flush()]] == [
        "2026-11-24T10:00:02.000Z INFO  [t] a: half line is whole now"
    ]


def test_a_file_that_is_rotated_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "postgres-10.log"
    path.write_text("2026-11-24 10:00:00.000 UTC [1] @ LOG:  yesterday\n" * 3)
    follower = Follower("postgres", lambda: [path])
    assert len([*follower.poll(), *follower.flush()]) == 3
    assert [*follower.poll(), *follower.flush()] == []
    path.write_text("2026-11-25 10:00:00.000 UTC [1] @ LOG:  today, longer than all of yesterday\n" * 5)
    assert len([*follower.poll(), *follower.flush()]) == 5


def test_a_file_that_is_rotated_away_is_read_on_under_its_new_name(tmp_path: Path) -> None:
    def text(begin: int, end: int) -> str:
        return "".join(f"2026-11-24T10:00:{n:02}.000Z INFO  [t] a: {n} {'x' * 50}\n" for n in range(begin, end))

    def files() -> list[Path]:
        return sorted(tmp_path.glob("a.log*"), key=lambda path: path.stat().st_mtime_ns)

    (tmp_path / "a.log").write_text(text(0, 3))
    follower = Follower("a", files)
    seen = [*follower.poll(), *follower.flush()]
    with (tmp_path / "a.log").open("a") as file:
        file.write(text(3, 5))  # not read before the rotation
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    (tmp_path / "a.log").write_text(text(5, 7))
    seen += [*follower.poll(), *follower.flush()]
    (tmp_path / "a.log.1").rename(tmp_path / "a.log.2")
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    (tmp_path / "a.log").write_text(text(7, 8))
    seen += [*follower.poll(), *follower.flush()]
    assert [int(line.text.split(" a: ")[1].split()[0]) for line in seen] == list(range(8))


def test_only_the_end_of_a_long_file_is_shown_in_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"2026-11-24T10:00:00.000Z INFO  [t] a: {n} {'x' * 100}\n" for n in range(1000)))
    follower = Follower("a", lambda: [path])
    follower.skip_to(3)
    lines = [*follower.poll(), *follower.flush()]
    assert 3 <= len(lines) < 20
    assert all(line.at is not None for line in lines)
    assert " a: 999 " in lines[-1].text


def test_a_follower_goes_on_where_another_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("2026-11-24T10:00:00.000Z INFO  [t] a: 1\n")
    first = Follower("a", lambda: [path])
    assert len([*first.poll(), *first.flush()]) == 1
    with path.open("a") as file:
        file.write("2026-11-24T10:00:01.000Z INFO  [t] a: 2\n")
    second = Follower("a", lambda: [path], first.positions)
    assert [line.text[-1] for line in [*second.poll(), *second.flush()]] == ["2"]


def test_logs_are_merged_by_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("".join(f"2026-11-24T10:00:0{n}.000Z INFO  [t] a: {n}\n more\n" for n in (1, 4, 5)))
    (tmp_path / "b").write_text("".join(f"2026-11-24 10:00:0{n}.500 UTC [1] @ LOG:  {n}\n" for n in (0, 3, 8)))
    followers = [Follower(name, lambda name=name: [tmp_path / name]) for name in ("a", "b")]  # type: ignore[misc]
    shown = [(line.component, line.text.splitlines()[0][-1]) for line in merged(followers, follow=False)]
    assert shown == [("b", "0"), ("a", "1"), ("b", "3"), ("a", "4"), ("a", "5"), ("b", "8")]


def test_our_records_say_what_they_are_about(tmp_path: Path) -> None:
    with write_to(tmp_path, run="demo/1") as path:
        log.info("plain")
        with bound(connector="cdcpipe-sink", table="public.orders"):
            log.warning("inside %s", 7, extra={"transaction": 42})
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("after")
    log.info("not any more")
    first, second, third = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["message"], first["run"], first["level"]) == ("plain", "demo/1", "INFO")
    assert "connector" not in first
    assert (second["message"], second["transaction"]) == ("inside 7", "42")
    assert (second["connector"], second["table"]) == ("cdcpipe-sink", "public.orders")
    assert "ValueError: broken" in third["exception"]
    assert parse("cdcpipe", path.read_text().splitlines()[0]) is not None
    with pytest.raises(TypeError, match="`colour`"), bound(colour="red"):
        pass


def test_a_credential_is_in_no_record_wherever_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_hidden", set())
    secret = Secret('pa"ss\\word-1')
    hide([secret])
    with write_to(tmp_path) as path:
        log.info("password %s", str(secret))
        log.info("in extra", extra={"table": str(secret)})
        try:
            raise ValueError(f"can't connect with {secret!s}")
        except ValueError:
            log.exception("failed")
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert all("***" in line for line in lines)
    assert not any('pa\\"ss' in line or "word-1" in line for line in lines)


def test_credentials_that_are_made_while_a_command_runs_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_hidden", set())
    with write_to(tmp_path, credentials=tmp_path / "credentials.json") as path:
        log.info("role cdcpipe_replication, before")
        (tmp_path / "credentials.json").write_text(
            json.dumps({"roles": {"x": ["cdcpipe_replication", "Zx0123456789abcdefgh"]}, "s3": ["K", "S" * 40]})
        )
        log.info("role cdcpipe_replication with Zx0123456789abcdefgh and %s", "S" * 40)
    assert "Zx0123" not in path.read_text()
    assert "SSSS" not in path.read_text()
    assert path.read_text().count("cdcpipe_replication") == 2


def test_a_full_disk_stops_no_work_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("this machine has no /dev/full")
    (tmp_path / "cdcpipe.jsonl").symlink_to(device)
    with write_to(tmp_path):
        for _ in range(5):
            log.info("x" * 100_000)
    told = capsys.readouterr().err
    assert told.count("can't be written") == 1
    assert "No space left" in told


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with write_to(tmp_path / "gone"):
        log.info("nobody reads this")
    assert not (tmp_path / "gone").exists()
