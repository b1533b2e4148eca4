"""What the operations of the chain cost: measured on py-evm in steady state, fitted, and a settlement taken apart."""

import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lattice_cli.bench.steady import Steady
from lattice_core.chain.artifacts import contracts_hash
from lattice_core.chain.gas import Fit, GasModel, Price
from lattice_core.chain.port import Transaction
from lattice_core.chain.profile import gas_by_opcode
from lattice_core.chain.pyevm import PyEvm
from lattice_sim import networks

USERS, NODES = 1_000, 100
"""The settlement that is timed and taken apart."""

RUNS = 3
"""The best of these counts."""

WORD = 16
"""Nodes whose reputations share a word of storage."""

_SOME = [(1,), (20,), (100,), (200,)]
_MANY = [(1,), (20,), (200,), (1_000,)]

GRIDS: dict[str, Sequence[tuple[int, ...]]] = {
    "register_users": _SOME,
    "grant_faucet": _SOME,
    "fund_users": _SOME,
    "register_nodes": _SOME,
    "bond_nodes": _SOME,
    "post_offers": [(1,), (2,), (4,), (8,)],
    "request_withdrawal": [()],
    "withdraw": [()],
    "settle": list(product((2, 20, 200, 1_000), (1, 10, 100, 1_000))),
    "open_books": _SOME,
    "present": [()],
    "collect": [()],
    "claim": [()],
    "propose_bonus": _MANY,
    "pay_bonus": _MANY,
    "post_status": [(1,), (WORD,), (WORD + 1,), (8 * WORD,), (16 * WORD,)],
}
"""The sizes at which each operation is measured: entries, and of a settlement nodes; an operation without has one entry."""

STEPS = {"post_status": WORD}
"""Of operations that cost more with every so many entries."""


def measure() -> tuple[dict[str, Any], GasModel]:
    """What `lattice bench gas --json` prints, and the model."""
    config = networks.read("baseline.yaml")
    users, nodes = (max(sizes) for sizes in zip(*GRIDS["settle"], strict=True))
    chain = PyEvm(history=False)
    network = Steady(chain, config, users, nodes)
    settle_s, revm_over_py_evm = _settle_s(network), None
    try:
        from lattice_core.chain.revm import Revm
    except ImportError:  # no pyrevm for this Python
        pass
    else:
        revm_over_py_evm = round(settle_s / _settle_s(Steady(Revm(), config, users, nodes)), 1)
    gas, breakdown = take_apart(chain, network)
    fits = {operation: fit(network, operation) for operation in GRIDS}
    prices = {operation: price for operation, (price, _) in fits.items()}
    model = GasModel(contracts_hash(), prices, {operation: fit for operation, (_, fit) in fits.items()})
    result = {
        "settle_1000_100": {"gas_per_user": gas / USERS, "gas": gas, "breakdown": breakdown},
        "settle_1000_100_s": round(settle_s, 4),
        "revm_over_py_evm": revm_over_py_evm,
        "operations": model.operations(),
    }
    return result, model


def fit(network: Steady, operation: str) -> tuple[Price, Fit]:
    """An operation's price, in whole gas: least squares of relative errors over its grid. Each size has a block of its own."""
    measured = []
    for size in GRIDS[operation]:
        network.chain.advance_block(1)
        measured.append(getattr(network, operation)(*size).gas_used)
    gas = np.array(measured, np.int64)
    entries, nodes = np.array([size + (1, 0)[len(size) :] for size in GRIDS[operation]], np.int64).T
    step = STEPS.get(operation, 1)
    rows = np.stack([np.ones_like(gas), -(-entries // step) * step, nodes], axis=1)
    varies = [True, *(np.ptp(rows[:, 1:], axis=0) > 0)]
    coefficients = np.zeros(3, np.int64)
    coefficients[varies] = np.rint(np.linalg.lstsq(rows[:, varies] / gas[:, None], np.ones(len(gas)))[0])
    error = np.abs(rows @ coefficients - gas) / gas
    base, per_entry, per_node = coefficients.tolist()
    return Price(base, per_entry, per_node, step), Fit(_range(entries), _range(nodes), int(np.ceil(error.max() * 1e6)))


def _range(sizes: NDArray[np.int64]) -> tuple[int, int]:
    return int(sizes.min()), int(sizes.max())


def take_apart(chain: PyEvm, network: Steady) -> tuple[int, dict[str, dict[str, float]]]:
    """Gas of the settlement, and what it is spent on: by each user and each node, as settlements with half the users and with
    twice the nodes tell, and by the base that is left.
    """
    network.end_epochs(1)
    users, nodes = np.arange(USERS), np.arange(NODES)
    whole, fewer, more = (
        _spent(chain, network.settlement(*ids))
        for ids in ((users, nodes), (users[users // 2 % 2 == 0], nodes), (users, np.arange(2 * NODES)))
    )
    of_users = {part: 2 * (gas - fewer[part]) for part, gas in whole.items()}
    of_nodes = {part: more[part] - gas for part, gas in whole.items()}
    return sum(whole.values()), {
        "per_user": {part: gas / USERS for part, gas in of_users.items()},
        "per_node": {part: gas / NODES for part, gas in of_nodes.items()},
        "base": {part: gas - of_users[part] - of_nodes[part] for part, gas in whole.items()},
    }


def _spent(chain: PyEvm, transaction: Transaction) -> dict[str, int]:
    """Gas of a transaction, by what it is spent on."""
    receipt, opcodes = gas_by_opcode(chain, transaction)
    assert receipt.gas_used is not None
    zeros = transaction.data.count(0)
    known = {
        "transaction": 21_000,
        "calldata": 4 * zeros + 16 * (len(transaction.data) - zeros),
        "cold_slot_read": opcodes["SLOAD", 2_100],
        "slot_write": sum(gas for (name, _), gas in opcodes.items() if name == "SSTORE"),
        "event": sum(gas for (name, _), gas in opcodes.items() if name.startswith("LOG")),
    }
    return {**known, "rest": receipt.gas_used - sum(known.values())}


def _settle_s(network: Steady) -> float:
    """The time in which a chain executes the settlement, as it is handed the transaction."""
    times_s = []
    for _ in range(RUNS):
        network.end_epochs(1)
        transaction = network.settlement(np.arange(USERS), np.arange(NODES))
        began = time.perf_counter()
        receipt = network.chain.transact(transaction)
        times_s.append(time.perf_counter() - began)
        receipt.raise_for_revert()
    return min(times_s)
