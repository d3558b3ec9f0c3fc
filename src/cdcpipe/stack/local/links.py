"""Links of the local stack: toxiproxy between every client of the pipeline and its server.

    Connect ──▶ PostgreSQL (source; catalog), Kafka, registry, S3      registry ──▶ PostgreSQL
    brokers ──▶ brokers (replicas and the quorum), from three on

Our own clients (verification, probes, workloads) keep their direct way: `Endpoints` stay as they are. Brokers have a
listener more, which advertises the proxies' addresses. A broker's inter-broker link is what *others* send it; what it
fetches from them runs over theirs.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from cdcpipe.errors import FaultError
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.link import Toxic
from cdcpipe.stack.local.kafka import BrokerLinks
from cdcpipe.stack.local.process import LocalProcess
from cdcpipe.stack.pipeline import PipelineSettings

__all__ = ["ProxiedLink", "Toxiproxy", "Wiring"]

_SERVERS = {
    "connect-postgres": "postgres",
    "connect-catalog": "postgres",
    "connect-registry": "registry",
    "connect-s3": "s3",
    "registry-postgres": "postgres",
}
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Wiring:
    """Which proxy listens where and leads where, by the ports of a proxied stack's plan."""

    brokers: int
    ports: Mapping[str, int]

    def _nodes(self) -> range:
        return range(1, self.brokers + 1)

    def proxies(self) -> dict[str, tuple[int, int]]:
        """Proxy -> the port that it listens on, and the server's."""
        found = {name: (self.ports[f"link-{name}"], self.ports[server]) for name, server in _SERVERS.items()}
        for node in self._nodes():
            found[f"connect-kafka-{node}"] = self._pair(f"connect-kafka-{node}", f"kafka-{node}-linked")
            if self.brokers > 1:
                found[f"kafka-kafka-{node}"] = self._pair(f"kafka-kafka-{node}", f"kafka-{node}-inter")
                found[f"kafka-quorum-{node}"] = self._pair(f"kafka-quorum-{node}", f"kafka-{node}-controller")
        return found

    def _pair(self, proxy: str, server: str) -> tuple[int, int]:
        return self.ports[f"link-{proxy}"], self.ports[server]

    def links(self, url: str) -> dict[str, ProxiedLink]:
        """Link -> the proxies that it is made of, at the toxiproxy at `url`."""
        upstreams = {name: f"{_HOST}:{ports[1]}" for name, ports in self.proxies().items()}

        def link(name: str, proxies: Sequence[str], servers: Sequence[str]) -> ProxiedLink:
            return ProxiedLink(name, tuple(servers), url, {proxy: upstreams[proxy] for proxy in proxies})

        found = [link(name, [name], [server]) for name, server in _SERVERS.items()]
        every = [f"kafka-{node}" for node in self._nodes()]
        found.append(link("connect-kafka", [f"connect-{name}" for name in every], every))
        if self.brokers > 1:
            inter = {name: [f"kafka-{name}", name.replace("kafka-", "kafka-quorum-")] for name in every}
            found.append(link("kafka-kafka", [proxy for pair in inter.values() for proxy in pair], every))
            for name in every:
                found.append(link(f"connect-{name}", [f"connect-{name}"], [name]))
                found.append(link(f"kafka-{name}", inter[name], [name]))
        return {each.name: each for each in found}

    def broker_links(self, node: int) -> BrokerLinks:
        """What broker `node` must know to be reached through proxies."""
        listen, _ = self.proxies()[f"connect-kafka-{node}"]
        client = (self.ports[f"kafka-{node}-linked"], listen)
        if self.brokers == 1:
            return BrokerLinks(client)
        return BrokerLinks(
            client,
            inter=(self.ports[f"kafka-{node}-inter"], self.ports[f"link-kafka-kafka-{node}"]),
            voters={other: self.ports[f"link-kafka-quorum-{other}"] for other in self._nodes() if other != node},
        )

    def postgres_of_registry(self) -> int:
        """The port at which the registry finds its database."""
        return self.ports["link-registry-postgres"]

    def endpoints(self, direct: Endpoints) -> Endpoints:
        """`direct` as Connect sees it."""
        assert direct.catalog is not None
        postgres = replace(direct.postgres, port=self.ports["link-connect-postgres"])
        catalog = replace(direct.catalog.postgres, port=self.ports["link-connect-catalog"])
        registry = f"http://{_HOST}:{self.ports['link-connect-registry']}"
        return replace(
            direct,
            postgres=postgres,
            catalog=replace(direct.catalog, postgres=catalog),
            bootstrap_servers=",".join(f"{_HOST}:{self.ports[f'link-connect-kafka-{n}']}" for n in self._nodes()),
            registry_url=registry + direct.registry_url[direct.registry_url.index("/apis") :],
            s3=replace(direct.s3, url=f"http://{_HOST}:{self.ports['link-connect-s3']}"),
        )

    def settings(self, direct: PipelineSettings) -> PipelineSettings:
        """`direct` as Connect needs it."""
        return replace(direct, registry_root=f"http://{_HOST}:{self.ports['link-connect-registry']}")


def _ask(method: str, url: str, content: Any = None) -> httpx2.Response:
    try:
        return httpx2.request(method, url, json=content, timeout=10, trust_env=False)
    except httpx2.HTTPError as error:
        raise FaultError(f"toxiproxy at {url} doesn't answer: {type(error).__name__}") from error


def _done(answer: httpx2.Response, *, also: tuple[int, ...] = ()) -> Any:
    if not answer.is_success and answer.status_code not in also:
        raise FaultError(f"toxiproxy refuses {answer.request.method} {answer.url}: {answer.text.strip()}")
    return answer.json() if answer.content and answer.is_success else None


class ProxiedLink:
    """A link through one or more proxies of a toxiproxy; `proxies` maps each to the server behind it.

    Its REST API is used as it is: PyPI's `toxiproxy-python` keeps one address for a whole process.
    """

    def __init__(self, name: str, servers: tuple[str, ...], url: str, proxies: Mapping[str, str]) -> None:
        self.name = name
        self.servers = servers
        self._url = url
        self._proxies = dict(proxies)

    def __repr__(self) -> str:
        return f"ProxiedLink({self.name!r})"

    def _proxy(self, name: str) -> str:
        return f"{self._url}/proxies/{name}"

    def _shown(self) -> list[dict[str, Any]]:
        return [_done(_ask("GET", self._proxy(name))) for name in self._proxies]

    def add(self, toxic: Toxic) -> None:
        content = {"name": toxic.name, "type": toxic.type, "stream": toxic.stream, "toxicity": 1.0}
        for name in self._proxies:
            _done(_ask("DELETE", f"{self._proxy(name)}/toxics/{toxic.name}"), also=(404,))
            _done(_ask("POST", f"{self._proxy(name)}/toxics", {**content, "attributes": dict(toxic.attributes)}))

    def remove(self, name: str) -> None:
        for proxy in self._proxies:
            _done(_ask("DELETE", f"{self._proxy(proxy)}/toxics/{name}"), also=(404,))

    def toxics(self) -> list[Toxic]:
        found = [
            {t["name"]: Toxic(t["name"], t["type"], t["stream"], t["attributes"]) for t in shown["toxics"]}
            for shown in self._shown()
        ]
        return [toxic for name, toxic in found[0].items() if all(name in others for others in found)]

    def cut(self) -> None:
        for name in self._proxies:
            _done(_ask("POST", self._proxy(name), {"enabled": False}))

    def mend(self) -> None:
        for name in self._proxies:
            _done(_ask("POST", self._proxy(name), {"enabled": True}))

    def is_cut(self) -> bool:
        return all(not shown["enabled"] for shown in self._shown())

    def upstream(self) -> str:
        return str(self._shown()[0]["upstream"])

    def reroute(self, address: str | None) -> None:
        for name, server in self._proxies.items():
            _done(_ask("POST", self._proxy(name), {"upstream": address or server}))

    @property
    def reroutable(self) -> bool:
        return True

    def rerouted(self) -> bool:
        return any(shown["upstream"] != self._proxies[shown["name"]] for shown in self._shown())

    def passes(self) -> bool:
        return all(_passes(shown["listen"]) for shown in self._shown())


def _passes(listen: str) -> bool:
    """Whether toxiproxy keeps a connection: it closes one at once when the server behind it doesn't listen."""
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.3)
        if probe.connect_ex((host, int(port))) != 0:
            return False
        try:
            return probe.recv(1) != b""
        except TimeoutError:  # nobody spoke, nobody hung up
            return True
        except OSError:
            return False


class Toxiproxy(LocalProcess):
    """The server in which all links meet. `proxies` maps each to the port it listens on and the server's."""

    program = "toxiproxy"

    def __init__(
        self,
        executable: Path,
        version: str,
        folder: Path,
        log_folder: Path,
        *,
        port: int,
        proxies: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__("toxiproxy", version, folder, log_folder)
        self.port = port
        self._executable = executable
        self._proxies = dict(proxies)

    @property
    def url(self) -> str:
        """Root of its API."""
        return f"http://{_HOST}:{self.port}"

    def prepare(self) -> None:
        content = [
            {"name": name, "listen": f"{_HOST}:{listen}", "upstream": f"{_HOST}:{server}", "enabled": True}
            for name, (listen, server) in self._proxies.items()
        ]
        (self.folder / "proxies.json").write_text(json.dumps(content, indent=1), encoding="utf-8")

    def argv(self) -> Sequence[str]:
        config = str((self.folder / "proxies.json").resolve())
        return [str(self._executable), "-host", _HOST, "-port", str(self.port), "-config", config]

    def env(self) -> Mapping[str, str]:
        return {"LOG_LEVEL": "error"}  # at info it names every connection

    def readiness(self) -> Readiness:
        with contextlib.suppress(httpx2.HTTPError, ValueError):
            known = httpx2.get(f"{self.url}/proxies", timeout=2, trust_env=False).json()
            lacking = sorted(set(self._proxies) - set(known))
            return Readiness(not lacking, f"has no proxy `{lacking[0]}`" if lacking else "")
        return Readiness(False, f"nothing answers at {self.url}")
