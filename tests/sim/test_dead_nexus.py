"""A Nexus that dies before it settles: its nodes collect by voucher what their payers signed for."""

from collections import Counter

import numpy as np
import pytest

from lattice_core import invariants
from lattice_core.chain.port import Reverted
from lattice_core.config import revise
from lattice_core.events import BatchLapsed, CloseEpoch, VoucherCollected
from lattice_core.split import Rates, split
from lattice_sim import networks
from lattice_sim.model import LatticeModel


@pytest.fixture(scope="module")
def bereft() -> LatticeModel:
    """A network whose Nexus closed its first epoch and sent no batch; the grace has passed."""
    model = LatticeModel(revise(networks.read("local.yaml"), {"users.0.budget.faucet": 1e-5, "sim.engine": "reference"}))
    model.decide()
    model.serve()
    model.engine.tell(CloseEpoch(model.t_ns, 0))
    model.chain.advance_block(model.bridge.epochs.lapse_s(0) - model.chain.block().timestamp_s)
    return model


def test_nodes_collect_what_was_receipted_and_nothing_twice(bereft: LatticeModel) -> None:
    model, bridge, usage = bereft, bereft.bridge, bereft.engine.receipts.usage(0)
    (submission,) = model.engine.submissions
    batch = submission.batch
    assert sum(one.nlai for one in usage) == batch.gross_purchased_nlai.sum() + batch.gross_faucet_nlai.sum() > 0
    with pytest.raises(Reverted, match="NotSettling"):
        bridge.settle(batch, model.t_ns)
    late = bridge.failed(batch, model.t_ns)
    assert isinstance(late, BatchLapsed)
    model.engine.tell(late)

    operators: Counter[int] = Counter()
    for one in usage:
        signed = bridge.voucher(one)
        (promise,) = bridge.present(signed, model.t_ns)
        model.engine.tell(promise)
        assert bridge.collect(signed.voucher, model.t_ns) == [], "it waits"
    presented = bridge.network.clock.current()
    model.chain.advance_block(bridge.epochs.lapse_s(presented) - model.chain.block().timestamp_s)
    for one in usage:
        voucher = bridge.voucher(one).voucher
        (fact,) = bridge.collect(voucher, model.t_ns)
        assert isinstance(fact, VoucherCollected)
        assert fact.nlai + fact.faucet_nlai == one.nlai
        for part in (fact.nlai, fact.faucet_nlai):
            operators[one.node] += split(part, Rates.of(model.config)).operators_nlai
        model.engine.tell(fact)
        assert bridge.collect(voucher, model.t_ns) == []
        bridge.check_money()

    assert {node: bridge.network.tokenomics.earned(node).operator_nlai for node in operators} == operators
    accounts = model.nexus.table("accounts")
    for open_debt in ("unsettled_nlai", "promised_nlai", "overdue_nlai", "faucet_unsettled_nlai", "faucet_overdue_nlai"):
        assert not accounts[open_debt].any()
    assert accounts["spent_nlai"].sum() == batch.gross_purchased_nlai.sum()
    assert accounts["faucet_spent_nlai"].sum() == batch.gross_faucet_nlai.sum() > 0
    on_chain = [bridge.network.users.account(user) for user in range(len(accounts))]
    kept = accounts["free_nlai"] + accounts["held_nlai"] + accounts["debit_nlai"]
    assert np.array_equal(kept, [account.purchased_nlai for account in on_chain])
    invariants.check(model.nexus)
    assert all(bridge.claim(node) for node in operators)
    bridge.check_money()
