"""Nodes of other machines: one command registers, bonds, checks and joins them; they are drained, come back, and leave."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lattice_cli.main import main
from lattice_core.chain.keys import Key, key_of
from lattice_live.application import Application, Asked, errand_header, now_ms
from lattice_live.node.identity import open_key
from lattice_live.upstream import Realm
from tests.live.membership import Started, get, row_of, started
from tests.live.networks import Live, live, local, tiny

HELLO: Any = [{"role": "user", "content": "hello"}]
STRANGER = key_of(99)
OFFER = ("--bond", "150", "--price-out", "0.3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("membership")


@pytest.fixture(scope="module")
def network(folder: Path) -> Iterator[Live]:
    """A Nexus that has launched no node."""
    with live(local(live__launch={}), folder / "run") as network:
        yield network


@pytest.fixture(scope="module")
def node(network: Live, folder: Path) -> Iterator[Started]:
    """Node 0, which has joined by itself."""
    assert get(network.url, "/v1/nodes")["data"] == []
    with started(network.url, folder / "node.key", *OFFER) as node:
        yield node


@pytest.fixture(scope="module")
def http(network: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=network.url, timeout=30) as client:
        yield client


def realm(network: Live) -> Realm:
    return network.ask(lambda inside: inside.members.realm)


def application(network: Live, key: Key = STRANGER, **changes: Any) -> dict[str, Any]:
    """A stranger's, as it must be but for the changes."""
    models = {"tiny": Asked(model_hash=tiny().manifest.model_hash, price_in_nlai=1, price_out_nlai=1)}
    said = {"url": "http://127.0.0.1:9", "models": models, "slots": 1, "queue": 1, "bond_nlai": 0, "t_ms": now_ms()} | changes
    return Application(**said).sign(key, realm(network)).model_dump()


def refused(reply: httpx.Response, status: int, code: str) -> str:
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code), error
    message: str = error["message"]
    return message


def answer(network: Live) -> int:
    """Tokens of an answer."""
    said = network.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=5)
    assert said.usage is not None
    return said.usage.completion_tokens


def test_one_command_registers_bonds_and_joins_a_node_which_serves(network: Live, folder: Path, node: Started) -> None:
    assert "checked" in node.said[0]
    assert answer(network) > 0
    node.wait_for("served its first answer")
    row = row_of(network.url, 0)
    owner = network.on_chain(lambda bridge: bridge.network.nodes.node(0))
    assert (owner.operator, owner.bond_nlai) == (open_key(folder / "node.key").address, 150 * 10**9)
    assert (row["state"], row["bond_nlai"], row["answers"], row["launched"]) == ("up", 150 * 10**9, 1, False)
    assert row["models"] == {"tiny": {"price_in_nlai": 10**8, "price_out_nlai": 3 * 10**8}}


def test_who_is_drained_gets_nothing_until_it_comes_back(
    network: Live, folder: Path, node: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", "drain", "--nexus", network.url, "--key", str(folder / "node.key")]) == 0
    assert "node 0 takes no more requests" in capsys.readouterr().out
    with pytest.raises(Exception, match="node"):
        answer(network)
    assert node.stop() == 0
    assert "drained after 1 answers" in node.said[-1]
    with started(network.url, folder / "node.key", *OFFER) as again:
        assert "node 0 of local" in again.said[-1], "the same key is the same node"
        assert answer(network) > 0
        assert main(["node", "drain", "0", "--nexus", network.url, "--api-key", network.key]) == 0
        assert row_of(network.url, 0)["state"] == "absent"
        assert main(["node", "leave", "--nexus", network.url, "--key", str(folder / "node.key")]) == 0
        assert network.on_chain(lambda bridge: bridge.network.nodes.node(0)).left
    assert (row_of(network.url, 0)["state"], row_of(network.url, 0)["bond_nlai"]) == ("left", 0)
    assert main(["node", "leave", "--nexus", network.url, "--key", str(folder / "node.key")]) == 2
    assert "has left already" in capsys.readouterr().err


def test_an_application_that_is_not_as_it_must_be_registers_nobody(network: Live, http: httpx.Client) -> None:
    count = network.on_chain(lambda bridge: bridge.network.nodes.count())
    signed = application(network)
    assert "body" in refused(http.post("/v1/nodes", content=b"{"), 400, "invalid_json")
    refused(http.post("/v1/nodes", content=b"x" * 100_000), 413, "body_too_large")
    assert "slots" in refused(http.post("/v1/nodes", json={**signed, "slots": 0}), 400, "invalid_value")
    refused(http.post("/v1/nodes", json={**signed, "signature": ""}), 401, "invalid_signature")
    refused(http.post("/v1/nodes", json=application(network, t_ms=now_ms() - 10**6)), 401, "invalid_signature")
    other = {"tiny": Asked(model_hash="00" * 32, price_in_nlai=1, price_out_nlai=1)}
    assert tiny().manifest.model_hash in refused(
        http.post("/v1/nodes", json=application(network, models=other)), 400, "wrong_model"
    )
    unknown = {"gpt": other["tiny"]}
    refused(http.post("/v1/nodes", json=application(network, models=unknown)), 400, "model_not_found")
    refused(http.post("/v1/nodes", json=application(network, url="http://192.0.2.1:80")), 400, "insecure_url")
    refused(http.post("/v1/nodes", json=application(network, url="https://192.0.2.1:80")), 400, "no_tls")
    assert network.on_chain(lambda bridge: bridge.network.nodes.count()) == count


def test_a_node_that_does_not_answer_is_registered_once_and_gets_no_requests(network: Live, http: httpx.Client) -> None:
    message = refused(http.post("/v1/nodes", json=application(network)), 409, "not_joined")
    number = int(message.split()[1])
    assert row_of(network.url, number)["state"] == "absent"
    again = refused(http.post("/v1/nodes", json=application(network)), 409, "not_joined")
    assert int(again.split()[1]) == number
    assert "slots" in refused(http.post("/v1/nodes", json=application(network, slots=2)), 409, "already_admitted")


def test_an_errand_is_the_nodes_own_or_an_admins_and_is_done_once(network: Live, http: httpx.Client) -> None:
    number = int(refused(http.post("/v1/nodes", json=application(network, key_of(98))), 409, "not_joined").split()[1])
    path = f"/v1/nodes/{number}/drain"
    own = errand_header(key_of(98), realm(network), number, "drain")
    refused(http.post(path), 401, "invalid_api_key")
    theirs = errand_header(STRANGER, realm(network), number, "drain")
    refused(http.post(path, headers={"authorization": theirs}), 401, "invalid_signature")
    refused(http.delete(f"/v1/nodes/{number}", headers={"authorization": own}), 401, "invalid_signature")
    assert http.post(path, headers={"authorization": own}).json()["node"] == number
    refused(http.post(path, headers={"authorization": own}), 401, "invalid_signature")
    for nobody in ("77", "-1", "x", "9" * 30):
        refused(http.post(f"/v1/nodes/{nobody}/drain", headers={"authorization": own}), 404, "unknown_node")


def test_a_wallet_says_where_each_nanolai_is(network: Live, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wallet", "--nexus", network.url, "--api-key", network.key, "--json"]) == 0
    said, row = json.loads(capsys.readouterr().out), network.account()
    assert said["purchased"]["free_nlai"] == row["free_nlai"]
    assert sum(said["purchased"].values()) == 2 * said["purchased"]["deposited_nlai"]
    assert said["faucet"]["spent_nlai"] == row["faucet_spent_nlai"]
    assert main(["wallet", "--nexus", network.url, "--api-key", network.key]) == 0
    assert "held for requests" in capsys.readouterr().out


def test_a_status_says_how_nexus_chain_and_nodes_are(network: Live, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", network.url]) == 0
    assert "chain 31337 on py-evm" in capsys.readouterr().out
    assert main(["status", network.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["network"]["name"] == "local"
    assert main(["node", "list", "--nexus", network.url]) == 0
    assert "answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "127.0.0.1:1"], "must begin with http"),
        (["status", "http://127.0.0.1:1"], "nobody answers there"),
        (["node", "start", "--nexus", "NEXUS", "--model", "gpt", "--key", "KEY"], "--model: must be among tiny"),
        (["node", "start", "--nexus", "NEXUS", "--model", "tiny=/nowhere", "--key", "KEY"], "/nowhere"),
        (["node", "drain", "--nexus", "NEXUS", "--key", "KEY"], "must be given the node's own --key"),
        (["node", "drain", "77", "--nexus", "NEXUS", "--key", "KEY", "--api-key", "sk-lattice-x"], "no node '77'"),
        (["wallet", "--nexus", "NEXUS", "--api-key", "sk-lattice-x"], "Authorization"),
        (["node", "collect", "--key", "KEY", "--rpc", "http://127.0.0.1:1"], "must be the node's key, and is no file"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    network: Live, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    known = {"NEXUS": network.url, "KEY": str(folder / "no.key")}
    assert main([known.get(word, word) for word in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]  # those are the Nexus's log
    assert words in line


@pytest.mark.parametrize("price", ["-1", "x", "1e9"])
def test_a_price_that_is_none_is_refused(price: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["node", "start", "--nexus", "http://127.0.0.1:1", "--model", "tiny", "--price-in", price])
    assert refusal.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
