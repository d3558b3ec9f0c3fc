"""Links of a kind stack that was brought up with `chaos`: toxiproxy between Connect, the registry and their servers.

Links between brokers are not proxied here; the local stack has those.
"""

from __future__ import annotations

import json

from cdcpipe.errors import StackError
from cdcpipe.stack.kind.kube import Kube
from cdcpipe.stack.kind.tools import deploy_folder
from cdcpipe.stack.link import Link
from cdcpipe.stack.local.links import ProxiedLink

__all__ = ["links_of"]

_URL = "http://127.0.0.1:32474"


class KindLink(ProxiedLink):
    """A link whose proxies listen in the cluster, so that only a pod can try whether it passes."""

    def __init__(self, name: str, servers: tuple[str, ...], proxies: dict[str, str], kube: Kube) -> None:
        super().__init__(name, servers, _URL, proxies)
        self._kube = kube

    @property
    def reroutable(self) -> bool:
        return False

    def passes(self) -> bool:
        return all(self._passes(str(shown["listen"]).rpartition(":")[2]) for shown in self._shown())

    def _passes(self, port: str) -> bool:
        # toxiproxy takes a connection and closes it at once when the server behind it doesn't listen.
        heard = 'read -t 0.3 -n 1 -u 3 byte; [ $? -gt 128 ] || [ -n "$byte" ]'
        script = f"exec 3<>/dev/tcp/toxiproxy/{port} || exit 1; {heard}"
        try:
            self._kube.exec("connect-0", f"exec bash -c '{script}'")
        except StackError:
            return False
        return True


def links_of(brokers: int, kube: Kube) -> dict[str, Link]:
    """Link -> the proxies that it is made of, as components/chaos/proxies.json names them."""
    text = deploy_folder("kind", "components", "chaos", "proxies.json").read_text(encoding="utf-8")
    upstreams = {str(proxy["name"]): str(proxy["upstream"]) for proxy in json.loads(text)}
    nodes = [f"kafka-{node}" for node in range(1, brokers + 1)]
    found: dict[str, Link] = {}
    for name, upstream in upstreams.items():
        if not name.startswith("connect-kafka"):
            found[name] = KindLink(name, (upstream.partition(":")[0],), {name: upstream}, kube)
        elif brokers > 1 and name.removeprefix("connect-") in nodes:
            found[name] = KindLink(name, (name.removeprefix("connect-"),), {name: upstream}, kube)
    brokers_proxies = {f"connect-{node}": upstreams[f"connect-{node}"] for node in nodes}
    found["connect-kafka"] = KindLink("connect-kafka", tuple(nodes), brokers_proxies, kube)
    return found
