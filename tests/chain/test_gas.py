"""The gas model: whole numbers, of the contracts that ship, and within two percent of what a fresh network measures."""

import re
from importlib.util import find_spec
from inspect import getsource
from pathlib import Path

import numpy as np
import pytest

from lattice_cli.bench.steady import Steady
from lattice_core.chain import bridge, gas
from lattice_core.chain.artifacts import contracts_hash
from lattice_core.chain.bridge import Bridge
from lattice_core.chain.gas import GasModel, Price
from lattice_core.chain.profile import gas_by_opcode
from lattice_core.chain.pyevm import PyEvm
from lattice_sim import networks
from tests.chain.networks import chunk, end, endow_and_grant, start
from tests.require import require

FILE = Path(__file__).parents[2] / "contracts" / "gas.json"
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def steady() -> Steady:
    return Steady(PyEvm(), networks.read("baseline.yaml"), users=150, nodes=60)


def test_the_file_is_of_the_contracts_that_ship_and_means_what_it_says() -> None:
    text = FILE.read_text()
    model = GasModel.parse(text)
    assert model.contracts_sha256 == contracts_hash()
    assert model.text() == text
    assert model == gas.load()
    assert all(type(number) is int for price in model.prices.values() for number in price)
    assert all(fit.error_ppm < TOLERANCE * 1e6 for fit in model.fits.values())


def test_it_prices_just_what_a_bridge_sends() -> None:
    sent = re.findall(r'self\._(?:record|batch)\(\s*"(\w+)"', getsource(bridge))
    assert set(sent) == set(gas.load().prices)


def test_a_user_in_a_settlement_of_a_thousand_costs_at_most_seven_thousand_gas() -> None:
    assert gas.load().gas("settle", 1_000, 100) / 1_000 <= 7_000


@pytest.mark.parametrize(
    ("operation", "size"),
    [
        ("register_users", (7,)),
        ("grant_faucet", (60,)),
        ("fund_users", (33,)),
        ("register_nodes", (13,)),
        ("bond_nodes", (41,)),
        ("post_offers", (3,)),
        ("request_withdrawal", ()),
        ("withdraw", ()),
        ("settle", (5, 3)),
        ("settle", (130, 47)),
        ("settle", (4, 60)),
        ("open_books", (9,)),
        ("present", ()),
        ("collect", ()),
        ("claim", ()),
        ("propose_bonus", (11,)),
        ("pay_bonus", (51,)),
        ("post_status", (50,)),
    ],
)
def test_an_operation_costs_what_the_model_says_at_sizes_it_was_not_fitted_at(
    steady: Steady, operation: str, size: tuple[int, ...]
) -> None:
    steady.chain.advance_block(1)
    measured = getattr(steady, operation)(*size).gas_used
    assert gas.load().gas(operation, *(size or (1,))) == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("faucet", [False, True])
def test_a_settlement_of_another_network_costs_what_the_model_says_whichever_credit_pays(faucet: bool) -> None:
    network, who = start(users=90, nodes=12)
    network.users.fund(who.holder, list(range(90)), [10**10] * 90).raise_for_revert()
    endow_and_grant(network, who.holder, list(range(90)), [10**10] * 90)
    debit, gross = ((0, 4_000_000), (0, 30_000_000)) if faucet else ((4_000_000, 0), (30_000_000, 0))
    for epoch in range(2):
        end(network, epoch)
        sent = chunk(dict.fromkeys(range(90), debit), dict.fromkeys(range(12), gross), epoch=epoch)
        receipt = network.tokenomics.settle(who.oracle, sent).raise_for_revert()
    assert gas.load().gas("settle", 90, 12) == pytest.approx(receipt.gas_used, rel=TOLERANCE)


def test_entries_that_share_a_word_cost_as_much_as_the_word() -> None:
    price = Price(base=100, per_entry=2, per_node=7, step=16)
    assert [price.gas(entries, 1) for entries in (0, 1, 16, 17)] == [107, 139, 139, 171]


def test_the_same_operations_have_the_same_gas_on_another_chain_which_measures_none() -> None:
    """INV-5."""
    require(find_spec("pyrevm") is not None, "pyrevm")
    from lattice_core.chain.revm import Revm

    config, operations = networks.read("local.yaml"), []
    for chain in (PyEvm(), Revm()):
        opened = Bridge(chain, config)
        opened.open(config, 0)
        operations.append(opened.drain())
    measured, unmeasured = operations
    assert all(operation.gas_used is not None for operation in measured)
    assert [operation._replace(gas_used=None) for operation in measured] == unmeasured


def test_the_gas_of_each_opcode_adds_up_to_the_transactions_and_telling_it_changes_nothing(steady: Steady) -> None:
    chain = steady.chain
    assert isinstance(chain, PyEvm)
    steady.end_epochs(1)
    sent = steady.settlement(np.arange(20), np.arange(4))
    before = chain.digest()
    receipt, opcodes = gas_by_opcode(chain, sent)
    assert chain.digest() == before
    assert chain.transact(sent) == receipt
    calldata = sum(16 if byte else 4 for byte in sent.data)
    assert sum(opcodes.values()) + 21_000 + calldata == receipt.gas_used
    assert opcodes["SSTORE", 2_900] >= (20 + 4) * 2_900
