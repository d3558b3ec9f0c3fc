"""A proxied stack's plan: no port twice, every way of the pipeline through a proxy, every proxy to the right server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdcpipe.stack.endpoints import CatalogEndpoint, Endpoints, PostgresEndpoint, Role, S3Endpoint, Secret
from cdcpipe.stack.local.links import Wiring
from cdcpipe.stack.local.state import Plan, Wanted, port_names
from cdcpipe.stack.pipeline import PipelineSettings


def _wiring(brokers: int) -> Wiring:
    names = port_names(brokers, proxied=True)
    return Wiring(brokers, {name: 20_000 + number for number, name in enumerate(names)})


def _direct(wiring: Wiring) -> Endpoints:
    ports = wiring.ports
    postgres = PostgresEndpoint("127.0.0.1", ports["postgres"], "shop", {"owner": Role("shop", Secret("x"))})
    return Endpoints(
        postgres=postgres,
        bootstrap_servers=",".join(f"127.0.0.1:{ports[f'kafka-{n}']}" for n in range(1, wiring.brokers + 1)),
        connect_url=f"http://127.0.0.1:{ports['connect']}",
        registry_url=f"http://127.0.0.1:{ports['registry']}/apis/ccompat/v7",
        s3=S3Endpoint(f"http://127.0.0.1:{ports['s3']}", "us-east-1", "lake", None, None),
        catalog=CatalogEndpoint("iceberg", postgres, "owner", "s3://lake/warehouse"),
        publication="cdc",
        topic_prefix="cdc",
        dead_letter_topic="cdc.dead-letters",
        transaction_topic="cdc.transaction",
    )


@pytest.mark.parametrize("brokers", [1, 3])
def test_names_of_ports_are_unique_and_a_direct_stack_has_none_of_a_proxied_one(brokers: int) -> None:
    names = port_names(brokers, proxied=True, observed=True)
    assert len(names) == len(set(names))
    assert not [name for name in port_names(brokers) if "link" in name or "toxiproxy" in name]


@pytest.mark.parametrize("brokers", [1, 3])
def test_the_pipeline_sees_no_server_but_through_a_proxy(brokers: int) -> None:
    wiring = _wiring(brokers)
    seen = wiring.endpoints(_direct(wiring))
    servers = {server: proxy for proxy, (_, server) in wiring.proxies().items()}
    listens = {port: name for name, (port, _) in wiring.proxies().items()}
    assert seen.catalog is not None
    assert listens[seen.postgres.port] == "connect-postgres"
    assert listens[seen.catalog.postgres.port] == "connect-catalog"
    addresses = [
        seen.registry_url,
        seen.s3.url or "",
        wiring.settings(PipelineSettings(brokers)).registry_root,
        *(f"http://{server}" for server in seen.bootstrap_servers.split(",")),
    ]
    for address in addresses:
        port = int(address.split(":")[2].partition("/")[0])
        assert port in listens
        assert port not in servers
    assert seen.registry_url.endswith("/apis/ccompat/v7")
    assert seen.connect_url == _direct(wiring).connect_url


def test_a_link_of_all_brokers_is_made_of_those_of_each() -> None:
    links = _wiring(3).links("http://127.0.0.1:1")
    assert links["connect-kafka"].servers == ("kafka-1", "kafka-2", "kafka-3")
    assert set(links["kafka-kafka-2"]._proxies) == {"kafka-kafka-2", "kafka-quorum-2"}
    assert set(links["kafka-kafka"]._proxies) == {
        proxy for n in (1, 2, 3) for proxy in links[f"kafka-kafka-{n}"]._proxies
    }
    assert [name for name in _wiring(1).links("") if name.startswith("kafka-")] == []


def test_a_broker_advertises_proxies_and_finds_other_controllers_through_theirs() -> None:
    wiring = _wiring(3)
    config = wiring.broker_links(2).apply(
        {"listeners": "CLIENT://c", "advertised.listeners": "CLIENT://c", "listener.security.protocol.map": "CLIENT:X"}
    )
    ports = wiring.ports
    assert config["listeners"] == (
        f"CLIENT://c,LINKED://127.0.0.1:{ports['kafka-2-linked']},INTER://127.0.0.1:{ports['kafka-2-inter']}"
    )
    assert config["advertised.listeners"] == (
        f"CLIENT://c,LINKED://127.0.0.1:{ports['link-connect-kafka-2']},INTER://127.0.0.1:{ports['link-kafka-kafka-2']}"
    )
    assert config["inter.broker.listener.name"] == "INTER"
    assert wiring.broker_links(2).voters == {1: ports["link-kafka-quorum-1"], 3: ports["link-kafka-quorum-3"]}


def test_a_plan_keeps_that_it_is_proxied_and_an_older_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    Plan.new(Wanted(proxied=True)).save(path)
    plan = Plan.load(path)
    assert plan is not None
    assert plan.proxied
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["proxied"]
    path.write_text(json.dumps(content), encoding="utf-8")
    older = Plan.load(path)
    assert older is not None
    assert not older.proxied
