"""INV-13, live: a private cluster's requests reach its own nodes and open no connection to anybody else's."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lattice_core.config import Config, parse, revise
from lattice_core.state import PUBLIC
from lattice_live.driver import Answer, Ask
from tests.live.membership import Started, row_of, started
from tests.live.networks import LOCAL, Live, live
from tests.live.peer import Peer, counting

HELLO: Any = [{"role": "user", "content": "where does it hurt"}]

WARD = """
  - name: ward
    count: 1
    cluster: clinic
    models: [tiny]
    hardware: {a: 4ms, b: 1ms, prefill_tok_s: 2000}
    slots: 2
    price: {input: 0.9, output: 0.9}    # a public request would go elsewhere
    bond: 200
"""
NURSE = """
  - name: nurse
    count: 1
    cluster: clinic
    privacy: cluster
    model: tiny
    workload: {poisson: {requests_per_day: 100}}
    tokens: {prompt: 40, output: 48, max_tokens: 128}
    budget: {deposit: 1}
"""


def clinic() -> Config:
    """The local network with a private cluster, whose one node is launched; account 0 is the cluster's."""
    text = LOCAL.read_text().replace("\nnodes:\n", f"\nclusters: [{{name: clinic}}]\n\nnodes:{WARD}")
    config = parse(text.replace("\nusers:\n", f"\nusers:{NURSE}"), LOCAL.name)
    changes = {"live.listen": "127.0.0.1:0", "live.launch": {"ward": 1}, "live.tls": True, "reputation.probe_interval": "24h"}
    changes |= {"routing.policy": "cheapest"}  # however slow the machine makes a node look
    return revise(config, changes)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Peer]]:
    """A clinic, and the public network's only node, which speaks TLS, behind the peer that counts."""
    folder: Path = tmp_path_factory.mktemp("clinic")
    with live(clinic(), folder / "run") as network, counting() as peer, socket.create_server(("127.0.0.1", 0)) as free:
        peer.target = free.getsockname()[1]
        free.close()
        certificate = folder / "run" / "keys" / "nexus.crt"
        options = ("--port", str(peer.target), "--url", f"https://127.0.0.1:{peer.port}", "--nexus-cert", str(certificate))
        with started(network.url, folder / "node.key", *options):
            assert row_of(network.url, 1)["state"] == "up"
            assert peer.connections > 0, "it is there that the Nexus met the node"
            peer.forget()
            yield network, peer


def answers(network: Live, count: int = 3) -> list[int]:
    """Serve `count` requests of the clinic's; how many answers its own node and the public one have given in all."""
    for _ in range(count):
        network.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=8)
    return [row_of(network.url, node)["answers"] for node in range(2)]


def test_a_private_request_opens_no_connection_outside_its_cluster(network: tuple[Live, Peer]) -> None:
    clinic, peer = network
    assert answers(clinic) == [3, 0]
    assert peer.connections == 0


def test_the_peer_would_have_seen_it(network: tuple[Live, Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same request, once its privacy has been taken off on the way to the kernel."""
    clinic, peer = network
    driver = clinic.network.driver
    ask = driver.ask

    def leak(asked: Ask) -> Answer:
        return ask(asked._replace(arrive=asked.arrive._replace(privacy=PUBLIC, cluster=0)))

    monkeypatch.setattr(driver, "ask", leak)
    before, after = row_of(clinic.url, 1)["answers"], answers(clinic, 1)[1]
    assert (after - before, peer.connections) == (1, 1)


def test_a_node_joins_a_private_cluster_with_an_admins_key_and_serves_it_alone(
    network: tuple[Live, Peer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clinic, _ = network
    certificate = str(tmp_path / "nexus.crt")
    (tmp_path / "nexus.crt").write_bytes((clinic.network.folder.keys / "nexus.crt").read_bytes())
    key = tmp_path / "node.key"
    common = ["--cluster", "clinic", "--nexus-cert", certificate, "--price-in", "0.01", "--price-out", "0.01"]
    stranger = Started(clinic.url, key, *common)
    assert stranger.process.wait(60) == 2
    assert "Authorization" in stranger.process.stderr.read()  # type: ignore[union-attr]
    with started(clinic.url, key, *common, "--api-key", clinic.key):
        row = row_of(clinic.url, 2)
        assert (row["state"], row["cluster"]) == ("up", "clinic")
        assert clinic.on_chain(lambda bridge: bridge.network.nodes.node(2).cluster) == 1
        answers(clinic)
        assert row_of(clinic.url, 2)["answers"] == 3, "it asks less"
