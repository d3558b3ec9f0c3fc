"""One Kafka broker in KRaft mode: broker and controller in one process."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cdcpipe.connect.properties import write_properties
from cdcpipe.errors import StackError
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.local.java import JavaProcess, run_java

__all__ = ["Broker", "BrokerLinks", "BrokerPorts", "answers", "check_format"]

_FORMATTED_BY = "formatted-by"

# (client listener, controller listener)
BrokerPorts = tuple[int, int]


@dataclass(frozen=True, slots=True)
class BrokerLinks:
    """How a broker is reached through proxies: for each further listener its own port, and the one to advertise.

    `voters` is where this broker finds the other controllers.
    """

    client: tuple[int, int]
    inter: tuple[int, int] | None = None
    voters: Mapping[int, int] = field(default_factory=dict)

    def apply(self, config: dict[str, str]) -> dict[str, str]:
        """`config` with the further listeners."""
        listeners = {"LINKED": self.client} | ({} if self.inter is None else {"INTER": self.inter})
        for name, (port, advertised) in listeners.items():
            config["listeners"] += f",{name}://127.0.0.1:{port}"
            config["advertised.listeners"] += f",{name}://127.0.0.1:{advertised}"
            config["listener.security.protocol.map"] += f",{name}:PLAINTEXT"
        if self.inter is not None:
            config["inter.broker.listener.name"] = "INTER"
        return config


class Broker(JavaProcess):
    """Node `node` of the cluster whose members listen on `cluster` (node id -> ports)."""

    def __init__(
        self,
        node: int,
        cluster: Mapping[int, BrokerPorts],
        *,
        jars: Path,
        version: str,
        folder: Path,
        log_folder: Path,
        cluster_id: str,
        heap_mb: int,
        aot: Path,
        links: BrokerLinks | None = None,
    ) -> None:
        super().__init__(f"kafka-{node}", version, folder, log_folder, heap_mb=heap_mb, aot=aot)
        self.node = node
        self.port = cluster[node][0]
        self._cluster = dict(cluster)
        self._cluster_id = cluster_id
        self._class_path = f"{jars}/*"
        self._links = links

    def _config(self) -> dict[str, str]:
        port, controller_port = self._cluster[self.node]
        size = len(self._cluster)
        replicas = str(min(3, size))
        in_sync = "2" if size >= 3 else "1"
        elsewhere = {} if self._links is None else self._links.voters
        controllers = {node: elsewhere.get(node, ports[1]) for node, ports in sorted(self._cluster.items())}
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in controllers.items())
        config = {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            # Static voters: a member's ports may change from one start to the next.
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{port}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "log.dirs": str((self.folder / "data").resolve()),
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "unclean.leader.election.enable": "false",
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": "8",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            # How long the controller waits for a broker that was killed before others lead its partitions (9 s, 2 s).
            "broker.session.timeout.ms": "6000",
            "broker.heartbeat.interval.ms": "1000",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "num.replica.fetchers": "1",
            "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
            "log.segment.bytes": str(128 * 1024 * 1024),
            "log.retention.hours": "168",
            "controlled.shutdown.enable": "true",
            "message.max.bytes": str(16 * 1024 * 1024),
            "replica.fetch.max.bytes": str(16 * 1024 * 1024),
        }
        return config if self._links is None else self._links.apply(config)

    def prepare(self) -> None:
        super().prepare()
        config = self.folder / "server.properties"
        config.write_text(write_properties(self._config()), encoding="ascii")
        if not (self.folder / "data" / "meta.properties").exists():
            run_java(
                "kafka.tools.StorageTool",
                *("format", "--cluster-id", self._cluster_id, "--config", str(config.resolve()), "--ignore-formatted"),
                class_path=self._class_path,
            )
            (self.folder / _FORMATTED_BY).write_text(self.version, encoding="ascii")

    def launch(self) -> Sequence[str]:
        return ["-cp", self._class_path, "kafka.Kafka", str((self.folder / "server.properties").resolve())]

    def loggers(self) -> Mapping[str, str]:
        return {"org.apache.kafka.raft": "warn", "kafka.log": "warn", "org.apache.kafka.storage.internals.log": "warn"}

    def readiness(self) -> Readiness:
        if not answers(self.port):
            return Readiness(False, f"nothing listens on port {self.port}")
        # log_level 0: librdkafka would print each refused connection to our terminal.
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0})
        try:
            metadata = client.list_topics(timeout=2)
        except KafkaException as error:
            return Readiness(False, str(error.args[0].str()))
        if self.node not in metadata.brokers:
            return Readiness(False, f"node {self.node} is not yet in the cluster's metadata")
        return Readiness(True)


def check_format(folder: Path, version: str) -> None:
    """Raises `StackError` when the broker in `folder` holds data of a newer release than `version`.

    A broker that formats its disk fixes the metadata version of its release, and an older release can't read that
    (https://kafka.apache.org/documentation/#downgrade): it would end with a sentence about some record of its log.
    """
    try:
        formatted_by = (folder / _FORMATTED_BY).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return
    if _release(version) < _release(formatted_by):
        raise StackError(
            f"the data in `{folder}` are of Kafka {formatted_by}, and Kafka {version} can't read them",
            hint=f"`cdcpipe up --with kafka={formatted_by}` goes on with them; `cdcpipe down --purge` removes them, "
            "and the rest of the stack",
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def answers(port: int) -> bool:
    """Whether something on loopback takes connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
