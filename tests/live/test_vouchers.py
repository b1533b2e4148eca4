"""At an epoch's end each node holds what its payers signed for, and is paid by that alone if its Nexus never settles."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lattice_cli.main import main
from lattice_core.census import users
from lattice_core.chain import rpc
from lattice_core.chain.contracts import Network
from lattice_core.chain.deployment import Listing
from lattice_core.chain.genesis import genesis_of, role_key
from lattice_core.chain.keys import key_of
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Voucher, sign
from lattice_core.events import CloseEpoch, Receipt
from lattice_core.journal import decision_line
from lattice_core.state import NODE_LOST
from lattice_live import network as live_network
from lattice_live.node.identity import Terms, open_key
from lattice_live.node.purse import Handed, Purse, PurseError, handed, purse_of
from lattice_live.upstream import NodeFailure
from lattice_live.vouchers import Vouchers
from tests.live.chains import restartable
from tests.live.membership import row_of, started
from tests.live.networks import live, local

HELLO: Any = [{"role": "user", "content": "hello"}]
TOKENOMICS = bytes(range(20))
TERMS = Terms(nexus=0, node=3, chain_id=31337, registry=bytes(20))
PAYER, OTHER = key_of(1), key_of(2)


# A node whose Nexus never settles


def test_a_node_whose_nexus_is_gone_collects_what_it_has_earned_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live_network, "GIVE_UP_S", 0.2)
    monkeypatch.setattr(rpc, "_PAUSES_S", (0.02,))
    key = tmp_path / "node.key"
    address = open_key(key).address
    with restartable(tmp_path) as chain:
        config = local(chain__backend="rpc", chain__url=chain.url, chain__epoch="1h", live__launch={})
        collect = ["node", "collect", "--key", str(key), "--rpc", chain.url]
        with ExitStack() as stack:
            with live(config, tmp_path / "run") as network:
                supply = role_key("holder", open_key(tmp_path / "run" / "keys" / "secret").secret)
                holder = rpc.Rpc(chain.url, [supply])
                contracts = Network(holder, network.network.settlement.listing.book)
                contracts.token.transfer(supply.address, address, 200 * 10**9).raise_for_revert()
                node = stack.enter_context(started(network.url, key, "--bond", "150"))
                assert any("registered as node 0, with a bond of 150 LAI" in line for line in node.said)
                for _ in range(2):
                    network.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=20)
                owed_nlai, api_key = network.account()["faucet_debit_nlai"], network.key
                chain.stop()
            (held,) = Purse(purse_of(key)).held.values()
            assert (held.value_nlai, held.node, held.payer) == (owed_nlai, 0, 0)
            capsys.readouterr()

            chain.start()
            epochs, before_nlai = contracts.clock.epochs(), contracts.token.balance_nlai(address)
            assert main(collect) == 0
            assert "may be paid by batch until" in capsys.readouterr().out
            reach(holder, epochs.lapse_s(0))
            assert main(collect) == 0
            assert "presented; waits until" in capsys.readouterr().out
            reach(holder, epochs.lapse_s(contracts.clock.current()))
            assert main(collect) == 0
            assert "LAI: collected" in capsys.readouterr().out
            paid_nlai = contracts.token.balance_nlai(address) - before_nlai
            assert 0.9 * owed_nlai < paid_nlai < owed_nlai, "less the cuts of treasury and auditors"
            assert main(collect) == 0
            assert "vouchers paid 0 LAI, 0 LAI went to" in capsys.readouterr().out

            with live(config, tmp_path / "run") as network:  # it sends the batch at last, and meets its node again
                assert wait_until(lambda: network.account()["faucet_overdue_nlai"]) == owed_nlai
                assert contracts.tokenomics.earned(0).operator_nlai == 0, "the epoch is paid once"
                wait_until(lambda: row_of(network.url, 0)["state"] == "up")
                network.client(api_key).chat.completions.create(model="tiny", messages=HELLO, max_tokens=20)


def wait_until(found: Callable[[], int]) -> int:
    for _ in range(1_000):
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError("it does not come")


def reach(chain: rpc.Rpc, time_s: int) -> None:
    chain.advance_block(time_s - chain.block().timestamp_s)


# What a node takes


def promise(payer: int = 7, value_nlai: int = 100, epoch: int = 1, tokenomics: bytes = TOKENOMICS, key: Any = PAYER) -> Handed:
    voucher = Voucher(TERMS.nexus, epoch, payer, TERMS.node, value_nlai, 10, bytes(32))
    return Handed(**handed(tokenomics, [(sign(voucher, key, domain(TERMS.chain_id, tokenomics)), key.address)]))


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    purse = Purse(tmp_path / "node.vouchers")
    assert purse.take(promise(), TERMS) == 1
    return purse


def test_a_voucher_is_in_the_file_once_it_is_taken_and_the_larger_one_counts(purse: Purse) -> None:
    assert purse.take(promise(), TERMS) == 0, "it has come before"
    assert purse.take(promise(value_nlai=150), TERMS) == 1
    assert purse.take(promise(epoch=2), TERMS) == 1
    (first, second) = Purse(purse.file).held.values()
    assert ((first.epoch, first.value_nlai), (second.epoch, second.value_nlai)) == ((1, 150), (2, 100))
    first.check()
    purse.drop([first.key])
    assert list(Purse(purse.file).held) == [second.key]
    assert purse.file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (promise(value_nlai=99), "value_nlai: must be more than 100"),
        (promise(value_nlai=200, key=OTHER), "owner: of payer 7 must be"),
        (promise(payer=8, tokenomics=bytes(20)), "tokenomics: must be"),
        (
            promise(payer=8).model_copy(update={"promises": [promise(payer=8).promises[0].model_copy(update={"tokens": 11})]}),
            "signature",
        ),
    ],
)
def test_a_voucher_that_is_not_as_it_must_be_is_not_kept(purse: Purse, bad: Handed, words: str) -> None:
    before = purse.file.read_bytes()
    with pytest.raises(PurseError, match=words):
        purse.take(bad, TERMS)
    assert purse.file.read_bytes() == before


def test_a_line_without_its_end_was_never_promised_and_any_other_is_refused_with_its_number(purse: Purse) -> None:
    whole = purse.file.read_bytes()
    purse.file.write_bytes(whole + whole[:-20])
    assert len(Purse(purse.file).held) == 1
    purse.file.write_bytes(b"{}\n" + whole)
    with pytest.raises(PurseError, match=r"node\.vouchers: line 1: must be a voucher"):
        Purse(purse.file)


# What a Nexus hands over


class Documents(dict[tuple[str, str], dict[str, Any]]):
    """A storage that forgets with its process."""

    def put(self, space: str, key: str, value: Mapping[str, Any]) -> None:
        self[space, key] = json.loads(json.dumps(value))

    def drop(self, space: str, key: str) -> None:
        self.pop((space, key), None)

    def items(self, space: str, prefix: str = "") -> dict[str, dict[str, Any]]:  # type: ignore[override]
        return {key: value for (of, key), value in super().items() if of == space and key.startswith(prefix)}


class Nodes:
    """Nodes that take vouchers, but for those that are away."""

    def __init__(self, folder: Path) -> None:
        self.away: set[int] = set()
        self.purses = {node: Purse(folder / f"{node}.vouchers") for node in range(2)}

    async def hand(self, node: int, body: Mapping[str, Any]) -> None:
        if node in self.away:
            raise NodeFailure(NODE_LOST, "away")
        self.purses[node].take(Handed(**body), TERMS._replace(node=node))

    def held(self, node: int) -> dict[tuple[int, int], int]:
        return {(one.epoch, one.payer): one.value_nlai for one in self.purses[node].held.values()}


CONFIG = local()
LISTING = Listing(31337, bytes(20), {"Tokenomics": TOKENOMICS}, genesis_of(CONFIG).roles)


def receipt(leg: int, epoch: int, account: int, node: int, nlai: int) -> Receipt:
    return Receipt(leg, leg, epoch, account, node, 10, 5, nlai, 1)


RECEIPTS = [
    receipt(1, 0, 0, 0, 10),
    receipt(2, 0, 0, 0, 20),
    receipt(3, 0, 1, 0, 30),
    receipt(4, 0, 0, 1, 40),
    receipt(5, 1, 0, 1, 50),
]
VALUES: list[dict[tuple[int, int], int]] = [{(0, 0): 32, (0, 1): 31}, {(0, 0): 41, (1, 0): 51}]


def test_each_payers_receipts_of_an_epoch_become_one_voucher_for_each_node(tmp_path: Path) -> None:
    nodes, storage = Nodes(tmp_path), Documents()

    async def run() -> None:
        vouchers = Vouchers(CONFIG, LISTING, storage, nodes.hand)
        vouchers.start()
        nodes.away.add(1)
        for epoch in range(2):
            for one in RECEIPTS:
                if one.epoch == epoch:
                    vouchers.see(CloseEpoch(0, -1), [one])
            vouchers.see(CloseEpoch(0, epoch), [])
        await vouchers.stop()
        assert [nodes.held(0), nodes.held(1)] == [VALUES[0], {}]
        nodes.away.clear()
        await vouchers.stop()
        assert [nodes.held(0), nodes.held(1)] == VALUES
        assert not storage.items("vouchers")

    asyncio.run(run())
    owners = {one.payer: one.owner for purse in nodes.purses.values() for one in purse.held.values()}
    keys = {entry.account: key_of(entry.key).address.hex() for entry in users(CONFIG)}
    assert owners == {payer: keys[payer] for payer in (0, 1)}


@pytest.mark.parametrize("done", [-1, 0])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_a_process_that_ended_before_it_signed_signs_at_the_next_start(
    tmp_path: Path, done: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattice_live.vouchers.BACK_LINES", at_once)
    nodes, storage = Nodes(tmp_path), Documents()
    storage.put("vouchers-done", "epoch", {"done": done})
    lines = [decision_line(number, one) for number, one in enumerate(RECEIPTS)]

    async def run() -> None:
        vouchers = Vouchers(CONFIG, LISTING, storage, nodes.hand)
        vouchers.restore(lambda first: iter(lines[first:]), len(lines), 2)
        vouchers.start()
        await vouchers.stop()

    asyncio.run(run())
    kept = [{key: value for key, value in values.items() if key[0] > done} for values in VALUES]
    assert [nodes.held(0), nodes.held(1)] == kept
