"""Settlement: the contract equals its shadow to the nanoLAI (INV-9), settles a chunk once (INV-10), and refuses by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lattice_core.batch import MAX_ENTRIES, Chunk
from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.contract import Contract
from lattice_core.chain.contracts.tokenomics import BonusTerms, Earned, encode_weights
from lattice_core.chain.contracts.users import Account
from lattice_core.chain.port import GAS_LIMIT, Receipt, Reverted, Transaction
from lattice_core.chain.pyevm import PyEvm
from lattice_core.split import Cuts, Parts, Rates, below_ceiling, credit, debit, scale, split
from lattice_core.units import MAX_SUPPLY_NLAI, NANO, PPM
from tests.chain.networks import BONUS, EPOCH_S, NEXUS, RATES, Actors, chunk, end, endow_and_grant, go_to, start

USERS, NODES = 4, 3
NETWORK, WHO = start(users=USERS, nodes=NODES, budget_nlai=MAX_SUPPLY_NLAI)
FRESH = NETWORK.chain.snapshot()
GRACE_S = NETWORK.clock.epochs().lapse_s(0)


@pytest.fixture
def network() -> Network:
    """Four users, three nodes, nobody funded, epoch 0 just over."""
    NETWORK.chain.revert(FRESH)
    end(NETWORK, 0)
    return NETWORK


@pytest.fixture
def funded(network: Network) -> Network:
    """Each user with 100 LAI purchased and 10 LAI of faucet credit."""
    ids = range(USERS)
    network.users.fund(WHO.holder, ids, [100 * NANO] * USERS).raise_for_revert()
    endow_and_grant(network, WHO.holder, list(ids), [10 * NANO] * USERS)
    return network


def parts(total: int, pieces: int) -> st.SearchStrategy[list[int]]:
    """So many non-negative integers that add up to `total`."""
    cuts = st.lists(st.integers(0, total), min_size=pieces - 1, max_size=pieces - 1).map(sorted)
    return cuts.map(lambda at: [int(b) - int(a) for a, b in zip([0, *at], [*at, total], strict=True)])


@st.composite
def settlements(draw: st.DrawFn) -> tuple[Rates, list[tuple[int, int]], Chunk]:
    """Rates, each user's balances, and a balanced chunk in which some debits are too large and some ids unknown."""
    ppm = st.one_of(st.integers(0, PPM), st.sampled_from([0, PPM]))
    rates = draw(st.builds(Rates, ppm, ppm, ppm, ppm, st.sampled_from([0, 1, 2**63 - 1])))
    supply = draw(st.one_of(st.just(MAX_SUPPLY_NLAI), st.integers(0, 10**6)))
    pots = draw(parts(supply, 2 * USERS + 1))
    balances = list(zip(pots[:USERS], pots[USERS : 2 * USERS], strict=True))
    debits: dict[int, tuple[int, int]] = {}
    for user in draw(st.permutations(range(USERS + 1))):
        room = [(2**63 - 1 - sum(entry[part] for entry in debits.values())) for part in (0, 1)]
        held = balances[user] if user < USERS else (0, 0)
        amounts = [
            min(room[part], draw(st.one_of(st.integers(0, held[part]), st.sampled_from([held[part], held[part] + 1]))))
            for part in (0, 1)
        ]
        debits[user] = (amounts[0], amounts[1])
    nodes = draw(st.permutations(range(NODES + 1)))[: draw(st.integers(1, NODES + 1))]
    gross = [draw(parts(sum(entry[part] for entry in debits.values()), len(nodes))) for part in (0, 1)]
    return rates, balances, chunk(debits, dict(zip(nodes, zip(*gross, strict=True), strict=True)))


@settings(max_examples=25, phases=[Phase.generate])  # shrinking takes minutes
@given(settlements())
def test_inv_9_the_contract_settles_as_its_shadow_does(settlement: tuple[Rates, list[tuple[int, int]], Chunk]) -> None:
    rates, balances, batch = settlement
    NETWORK.chain.revert(FRESH)
    NETWORK.tokenomics.set_rates(WHO.owner, rates).raise_for_revert()
    purchased, faucet = (np.array(column, np.int64) for column in zip(*balances, strict=True))
    NETWORK.users.fund(WHO.holder, *_positive(purchased)).raise_for_revert()
    endow_and_grant(NETWORK, WHO.holder, *_positive(faucet))
    end(NETWORK, 0)

    settled = NETWORK.settled(batch, NETWORK.tokenomics.settle(WHO.oracle, batch))

    skipped = np.zeros(len(batch.users), np.bool_)
    claimed, applied = debit(batch.users, batch.debit_purchased_nlai, batch.debit_faucet_nlai, purchased, faucet, skipped)
    operators, delegators = np.zeros(NODES, np.int64), np.zeros(NODES, np.int64)
    grosses = (batch.nodes, batch.gross_purchased_nlai, batch.gross_faucet_nlai)
    in_force = below_ceiling(rates, 0)
    cuts = credit(*grosses, claimed, applied, in_force, operators, delegators)
    assert settled.debited == applied
    assert settled.cuts == cuts
    assert settled.skipped.tolist() == batch.users[skipped].tolist()
    assert settled.applied.tolist() == batch.users[~skipped].tolist()
    for user in range(USERS):
        assert NETWORK.users.account(user) == Account(purchased[user], faucet[user], NEXUS)
        assert NETWORK.users.is_settled(user, 0) == (user in settled.applied)
    gross = dict(zip(batch.nodes.tolist(), batch.gross_purchased_nlai.tolist(), strict=True))
    for node in range(NODES):
        paid = scale(gross.get(node, 0), applied.purchased_nlai, claimed.purchased_nlai)
        burned = split(paid, in_force).burned_nlai
        assert NETWORK.tokenomics.earned(node) == Earned(operators[node], delegators[node], burned)
    assert NETWORK.token.burned_wei() == cuts.burned_nlai * NANO
    assert NETWORK.token.balance_nlai(NETWORK.tokenomics.address) == NETWORK.tokenomics.total_claims_nlai()


def _positive(amounts: np.ndarray) -> tuple[list[int], list[int]]:
    """Ids of users, and amounts, where there is one."""
    ids = np.flatnonzero(amounts)
    return ids.tolist(), amounts[ids].tolist()


def test_a_fee_is_cut_in_order_and_the_operator_can_claim_the_rest(funded: Network) -> None:
    batch = chunk({0: (1_003, 0)}, {2: (1_003, 0)})
    settled = funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch))
    assert settled.cuts == split(1_003, RATES) == Cuts(11, 40, 20, 47, 885)
    assert settled.debited == Parts(1_003, 0)
    funded.tokenomics.claim(WHO.stranger, 2).raise_for_revert()
    assert funded.token.balance_nlai(funded.nodes.operator_of(2)) == 885
    assert funded.tokenomics.earned(2) == Earned(0, 47, 11)


def test_a_treasury_at_its_ceiling_leaves_its_share_to_the_others(funded: Network) -> None:
    funded.tokenomics.set_rates(WHO.owner, RATES._replace(treasury_ceiling_nlai=1)).raise_for_revert()
    cuts = []
    for epoch in range(2):
        end(funded, epoch)
        batch = chunk({0: (NANO, 0)}, {0: (NANO, 0)}, epoch=epoch)
        cuts.append(funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch)).cuts.treasury_nlai)
    assert cuts == [39_600_000, 0]


def test_a_user_without_the_money_is_skipped_and_the_others_still_pay(funded: Network) -> None:
    batch = chunk({0: (100 * NANO, 0), 1: (300 * NANO, 0), 9: (0, 0)}, {0: (400 * NANO, 0)})
    settled = funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch))
    assert settled.applied.tolist() == [0]
    assert settled.skipped.tolist() == [1, 9]
    assert settled.debited == Parts(100 * NANO, 0)
    assert funded.users.account(0) == Account(0, 10 * NANO, NEXUS)
    assert funded.users.account(1) == Account(100 * NANO, 10 * NANO, NEXUS)


def test_what_an_unknown_node_earned_is_the_treasurys(funded: Network) -> None:
    batch = chunk({0: (NANO, NANO)}, {NODES: (NANO, NANO)})
    settled = funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch))
    assert settled.cuts == Cuts(0, 2 * NANO, 0, 0, 0)


@given(st.permutations(range(3)), st.lists(st.integers(0, 2), min_size=6, max_size=6))
@settings(max_examples=10)
def test_inv_10_epochs_settle_in_any_order_and_each_debits_a_user_once(order: list[int], again: list[int]) -> None:
    NETWORK.chain.revert(FRESH)
    NETWORK.users.fund(WHO.holder, [0], [NANO]).raise_for_revert()
    go_to(NETWORK, GRACE_S - 1)
    end(NETWORK, 1)
    settling = [epoch for epoch in range(3) if NETWORK.clock.settles(epoch)]
    assert settling == [0, 1]
    for number, epoch in enumerate([*order, *again]):
        batch = chunk({0: (1 << epoch, 0)}, {0: (1 << epoch, 0)}, epoch=epoch, number=number)
        assert NETWORK.tokenomics.settle(WHO.oracle, batch).ok == (epoch in settling)
    assert NETWORK.users.account(0).purchased_nlai == NANO - 0b011
    assert [NETWORK.users.is_settled(0, epoch) for epoch in range(3)] == [True, True, False]


def test_an_epoch_settles_from_its_end_until_its_grace_has_passed(funded: Network) -> None:
    """The chain's clock says when; a second too early or too late is refused with the epoch that it is."""
    early, late = chunk({0: (1, 0)}, {0: (1, 0)}, epoch=1), chunk({0: (1, 0)}, {0: (1, 0)}, epoch=0)
    go_to(funded, funded.clock.epochs().end_s(1) - 1)
    with pytest.raises(Reverted, match=r"NotSettling\(epoch=1, current=1\)"):
        funded.tokenomics.settle(WHO.oracle, early).raise_for_revert()
    go_to(funded, funded.clock.epochs().end_s(1))
    funded.tokenomics.settle(WHO.oracle, early).raise_for_revert()
    go_to(funded, GRACE_S - 1)
    assert funded.clock.settles(0)
    go_to(funded, GRACE_S)
    with pytest.raises(Reverted, match=r"NotSettling\(epoch=0, current=3\)"):
        funded.tokenomics.settle(WHO.oracle, late).raise_for_revert()
    assert funded.users.account(0).purchased_nlai == 100 * NANO - 1


def test_inv_10_a_chunk_settles_once(funded: Network) -> None:
    batch = chunk({0: (NANO, NANO)}, {0: (NANO, NANO)}, number=300)
    funded.tokenomics.settle(WHO.oracle, batch).raise_for_revert()
    assert funded.tokenomics.is_settled(NEXUS, 0, 300)
    before = money(funded)
    again = funded.tokenomics.settle(WHO.oracle, batch)
    with pytest.raises(Reverted, match=r"AlreadySettled\(nexus=1, epoch=0, chunk=300\)"):
        again.raise_for_revert()
    assert money(funded) == before
    assert not funded.tokenomics.is_settled(NEXUS, 0, 301)
    other = chunk({1: (NANO, NANO)}, {0: (NANO, NANO)}, number=301)
    assert funded.settled(other, funded.tokenomics.settle(WHO.oracle, other)).applied.tolist() == [1]


def test_inv_10_a_batch_sent_again_under_another_chunk_debits_nobody_twice(funded: Network) -> None:
    first = chunk({0: (NANO, NANO), 1: (NANO, 0)}, {0: (2 * NANO, NANO)})
    funded.tokenomics.settle(WHO.oracle, first).raise_for_revert()
    before = money(funded)
    again = chunk({0: (NANO, NANO), 1: (NANO, 0)}, {0: (2 * NANO, NANO)}, number=1)
    settled = funded.settled(again, funded.tokenomics.settle(WHO.oracle, again))
    assert settled.skipped.tolist() == [0, 1]
    assert settled.cuts == Cuts(0, 0, 0, 0, 0)
    assert money(funded) == before


def test_a_payer_named_twice_in_a_chunk_pays_once(funded: Network) -> None:
    users = encode_entry(0, NANO) + encode_entry(0, 2 * NANO)
    receipt = raw_settle(funded, users, encode_entry(0, 3 * NANO)).raise_for_revert()
    (skip,) = funded.users.logged("UserSkipped", receipt)
    assert skip == {"user": 0, "epoch": 0, "purchased": 2 * NANO, "faucet": 0}
    assert funded.users.account(0).purchased_nlai == 99 * NANO


def test_a_user_of_another_nexus_is_skipped(funded: Network) -> None:
    funded.book.set_oracle(WHO.owner, 2, WHO.oracle).raise_for_revert()
    funded.users.join(WHO.stranger, 2).raise_for_revert()
    funded.users.fund(WHO.holder, [USERS], [NANO]).raise_for_revert()
    for nexus, skipped in ((NEXUS, [USERS]), (2, [0])):
        batch = chunk({0: (1, 0), USERS: (1, 0)}, {0: (2, 0)}, nexus=nexus)
        assert funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch)).skipped.tolist() == skipped


def test_a_node_that_deregisters_before_settlement_is_still_paid(funded: Network) -> None:
    operator = funded.nodes.operator_of(2)
    funded.nodes.deregister(operator, 2).raise_for_revert()
    batch = chunk({0: (1_003, 0)}, {2: (1_003, 0)})
    funded.tokenomics.settle(WHO.oracle, batch).raise_for_revert()
    funded.tokenomics.claim(WHO.stranger, 2).raise_for_revert()
    assert funded.token.balance_nlai(operator) == 885


def test_inv_14_the_bonus_gives_back_no_more_than_its_part_of_what_was_burned(network: Network) -> None:
    network.chain.revert(FRESH)
    network.tokenomics.set_bonus_terms(WHO.owner, BONUS._replace(per_day_nlai=10**6 * NANO)).raise_for_revert()
    network.users.fund(WHO.holder, [0], [100 * NANO]).raise_for_revert()
    endow_and_grant(network, WHO.holder, [0], [100 * NANO])
    network.tokenomics.endow(WHO.holder, 10**6 * NANO).raise_for_revert()
    end(network, 0)
    batch = chunk({0: (100 * NANO, 100 * NANO)}, {0: (60 * NANO, 0), 1: (40 * NANO, 100 * NANO)})
    network.tokenomics.settle(WHO.oracle, batch).raise_for_revert()
    before = [network.tokenomics.earned(node) for node in range(2)]
    assert [node.burned_nlai for node in before] == [60 * NANO // 100, 40 * NANO // 100]
    weights = np.array([0, 1, 2, NODES]), np.array([1, 10**6, 1, 1])
    network.tokenomics.propose_bonus(WHO.oracle, NEXUS, *weights).raise_for_revert()
    go_to(network, network.chain.block().timestamp_s + BONUS.window_s)
    network.tokenomics.pay_bonus(WHO.stranger, *weights).raise_for_revert()
    for node, was in enumerate(before):
        now = network.tokenomics.earned(node)
        gained = now.operator_nlai + now.delegators_nlai - was.operator_nlai - was.delegators_nlai
        pool = 10**6 * NANO * EPOCH_S // 86_400
        assert gained == min(was.burned_nlai * 9 // 10, pool * int(weights[1][node]) // (10**6 + 3))
        assert now.burned_nlai == 0
    assert network.tokenomics.earned(2) == Earned(0, 0, 0)
    assert network.token.balance_nlai(network.tokenomics.address) == network.tokenomics.total_claims_nlai()


WEIGHTS = np.array([0]), np.array([1])


def test_the_bonus_is_never_blocked(network: Network) -> None:
    """Weights that nobody could ever be paid by are not taken, and the owner may throw others away until they are paid by."""
    with pytest.raises(Reverted, match=r"WeightsZero\(\)"):
        network.tokenomics.propose_bonus(WHO.oracle, NEXUS, np.arange(NODES), np.zeros(NODES, np.int64)).raise_for_revert()
    network.tokenomics.propose_bonus(WHO.oracle, NEXUS, *WEIGHTS).raise_for_revert()
    go_to(network, network.chain.block().timestamp_s + 2 * BONUS.window_s)
    network.tokenomics.reject_bonus(WHO.owner).raise_for_revert()
    network.tokenomics.propose_bonus(WHO.oracle, NEXUS, *WEIGHTS).raise_for_revert()
    go_to(network, network.chain.block().timestamp_s + BONUS.window_s)
    network.tokenomics.pay_bonus(WHO.stranger, *WEIGHTS).raise_for_revert()


def test_new_terms_reject_weights_that_wait_and_begin_anew_with_what_was_burned_before(funded: Network) -> None:
    tokenomics, per_day = funded.tokenomics, 24 * NANO
    tokenomics.set_bonus_terms(WHO.owner, BONUS._replace(per_day_nlai=per_day)).raise_for_revert()
    batch = chunk(dict.fromkeys(range(USERS), (100 * NANO, 0)), {0: (400 * NANO, 0)})
    tokenomics.settle(WHO.oracle, batch).raise_for_revert()
    before = tokenomics.earned(0)
    assert before.burned_nlai == 4 * NANO
    tokenomics.propose_bonus(WHO.oracle, NEXUS, *WEIGHTS).raise_for_revert()
    end(funded, 1)

    receipt = tokenomics.set_bonus_terms(WHO.owner, BONUS._replace(per_day_nlai=2 * per_day, window_s=0)).raise_for_revert()
    assert tokenomics.logged("BonusRejected", receipt) == [{"weights": keccak(encode_weights(*WEIGHTS))}]
    assert tokenomics.bonus_paid_until_s() == funded.chain.block().timestamp_s
    go_to(funded, funded.chain.block().timestamp_s + BONUS.window_s)
    with pytest.raises(Reverted, match=r"NoProposal\(\)"):
        tokenomics.pay_bonus(WHO.stranger, *WEIGHTS).raise_for_revert()
    assert tokenomics.earned(0) == before

    tokenomics.propose_bonus(WHO.oracle, NEXUS, *WEIGHTS).raise_for_revert()
    tokenomics.pay_bonus(WHO.stranger, *WEIGHTS).raise_for_revert()
    after = tokenomics.earned(0)
    gained = after.operator_nlai + after.delegators_nlai - before.operator_nlai - before.delegators_nlai
    assert gained == min(4 * NANO * 9 // 10, 2 * per_day)
    assert after.burned_nlai == 0


def test_the_largest_chunk_fits_a_transaction_once_the_books_of_its_nodes_are_open() -> None:
    """Without that, a thousand nodes that were never paid cost more gas than a transaction may have."""
    network, who = start(users=MAX_ENTRIES, chain=PyEvm(history=False))
    batches = [range(first, first + 200) for first in range(0, MAX_ENTRIES, 200)]
    large_nlai = 123_456_789_123
    for ids in batches:
        network.users.fund(who.holder, ids, [large_nlai] * len(ids)).raise_for_revert()
        endow_and_grant(network, who.holder, list(ids), [large_nlai] * len(ids))
        operators = [who.stranger] * len(ids)
        network.nodes.register(who.holder, operators, operators, [0] * len(ids), [0] * len(ids)).raise_for_revert()
    end(network, 0)
    largest = dict.fromkeys(range(MAX_ENTRIES), (large_nlai, large_nlai))
    batch = chunk(largest, largest)
    assert not network.tokenomics.settle(who.oracle, batch).ok
    for ids in batches:
        network.tokenomics.open_books(who.stranger, ids).raise_for_revert()
    receipt = network.tokenomics.settle(who.oracle, batch).raise_for_revert()
    assert receipt.gas_used < 0.8 * GAS_LIMIT
    assert len(network.settled(batch, receipt).applied) == MAX_ENTRIES


def money(network: Network) -> tuple[object, ...]:
    """Everything that a settlement can move."""
    contracts = (network.users, network.nodes, network.tokenomics)
    return (
        network.token.supply_wei(),
        [network.token.balance_wei(contract.address) for contract in contracts],
        [network.users.account(user) for user in range(USERS)],
        [network.tokenomics.earned(node) for node in range(NODES)],
        [network.nodes.node(node) for node in range(NODES)],
        network.tokenomics.claims(),
    )


@pytest.mark.parametrize(
    ("debits", "grosses", "reason"),
    [
        ((5, 3), (4, 3), "ChunkUnbalanced(debitPurchased=5, grossPurchased=4, debitFaucet=3, grossFaucet=3)"),
        ((5, 3), (3, 5), "ChunkUnbalanced(debitPurchased=5, grossPurchased=3, debitFaucet=3, grossFaucet=5)"),
    ],
)
def test_an_unbalanced_chunk_moves_nothing(
    funded: Network, debits: tuple[int, int], grosses: tuple[int, int], reason: str
) -> None:
    before = money(funded)
    with pytest.raises(Reverted) as refusal:
        funded.tokenomics.settle(WHO.oracle, chunk({0: debits}, {0: grosses})).raise_for_revert()
    assert str(refusal.value) == reason
    assert money(funded) == before
    assert not funded.tokenomics.is_settled(NEXUS, 0, 0)


def encode_entry(number: int, purchased_nlai: int) -> bytes:
    """One line of a chunk, as Entry.sol writes it."""
    return encode_weights(np.array([number]), np.array([purchased_nlai]))


def raw_settle(network: Network, users: bytes, nodes: bytes = b"") -> Receipt:
    return send(network.tokenomics, WHO.oracle, "settle", NEXUS, 0, 0, users, nodes)


def send(contract: Contract, sender: bytes, function: str, *args: Any) -> Receipt:
    data = contract.abi.encode_call(function, *args)
    return contract.chain.transact(Transaction(sender, contract.address, data))


ODD, LONG = b"\1" * 21, b"\1" * 20 * 1001
REFUSALS: list[tuple[Callable[[Network, Actors], Receipt], str]] = [
    # Unauthorised callers
    (lambda n, who: n.tokenomics.settle(who.stranger, chunk({}, {})), f"NotOracle(nexus=1, caller=0x{WHO.stranger.hex()})"),
    (
        lambda n, who: n.tokenomics.settle(who.oracle, chunk({}, {}, nexus=2)),
        f"NotOracle(nexus=2, caller=0x{WHO.oracle.hex()})",
    ),
    (lambda n, who: n.tokenomics.propose_bonus(who.owner, NEXUS, *NO_WEIGHTS), "NotOracle(nexus=1"),
    (lambda n, who: n.tokenomics.set_rates(who.deployer, RATES), f"NotOwner(caller=0x{WHO.deployer.hex()})"),
    (lambda n, who: n.tokenomics.set_budget(who.oracle, 1, 1), "NotOwner("),
    (lambda n, who: n.tokenomics.set_bonus_terms(who.oracle, BONUS), "NotOwner("),
    (lambda n, who: n.tokenomics.reject_bonus(who.oracle), "NotOwner("),
    (lambda n, who: n.tokenomics.pay_treasury(who.holder, who.holder, 1), "NotOwner("),
    (lambda n, who: n.tokenomics.pay_auditors(who.holder, who.holder, 1), "NotOwner("),
    (lambda n, who: n.tokenomics.grant_faucet(who.owner, [0], [1]), f"NotRole(role=0x{b'Faucet'.ljust(32, bytes(1)).hex()}"),
    (lambda n, who: n.users.register(who.stranger, NEXUS, [], []), f"NotRole(role=0x{b'Registrar'.ljust(32, bytes(1)).hex()}"),
    (lambda n, who: send(n.users, who.oracle, "debit", NEXUS, 0, b""), "NotContract(name=0x546f6b656e6f6d696373"),
    (lambda n, who: send(n.users, who.oracle, "debitVoucher", 0, 1), "NotContract("),
    (lambda n, who: send(n.users, who.oracle, "authorise", NEXUS, 0, 0, 0, 1, who.oracle), "NotContract("),
    (lambda n, who: send(n.users, who.holder, "grantFaucet", [0], [1]), "NotContract("),
    (lambda n, who: n.token.mint(who.owner, who.owner, 1), "NotContract("),
    (lambda n, who: n.book.set(who.deployer, "Tokenomics", who.deployer), "OwnableUnauthorizedAccount(account=0x"),
    (lambda n, who: n.book.set_oracle(who.deployer, 1, who.deployer), "OwnableUnauthorizedAccount(account=0x"),
    (lambda n, who: n.book.set_role(who.deployer, "Faucet", who.deployer), "OwnableUnauthorizedAccount(account=0x"),
    (lambda n, who: n.book.set(who.owner, "Tokenomics", who.owner), "NotAContract(name=0x546f6b656e6f6d696373"),
    # Zero addresses and amounts
    (lambda n, who: n.users.register(who.holder, NEXUS, [b"\1" * 32], [bytes(20)]), f"OwnerMissing(identity=0x{'01' * 32})"),
    (lambda n, who: n.users.register(who.holder, NEXUS, [b"\1" * 32, bytes(32)], [who.owner] * 2), "IdentityZero(row=1)"),
    (lambda n, who: n.users.fund(who.holder, [0, 1], [1, 0]), "AmountZero(user=1)"),
    (lambda n, who: n.tokenomics.grant_faucet(who.holder, [2], [0]), "AmountZero(user=2)"),
    (lambda n, who: n.nodes.bond(who.holder, [1], [0]), "AmountZero(node=1)"),
    (lambda n, who: n.tokenomics.propose_bonus(who.oracle, NEXUS, *NO_WEIGHTS), "WeightsZero()"),
    (lambda n, who: n.nodes.register(who.stranger, [], [], [], []), "NothingToRegister()"),
    (lambda n, who: n.nodes.register(who.holder, [bytes(20)], [who.owner], [0], [0]), f"OperatorMissing(node={NODES})"),
    (lambda n, who: n.nodes.register(who.holder, [who.owner], [bytes(20)], [0], [0]), f"SignerMissing(node={NODES})"),
    (lambda n, who: n.tokenomics.pay_treasury(who.owner, bytes(20), 0), f"ERC20InvalidReceiver(receiver=0x{'00' * 20})"),
    (lambda n, who: n.tokenomics.set_budget(who.owner, 1, 0), "HalfLifeZero()"),
    (lambda n, who: n.token.transfer(who.holder, bytes(20), 1), "ERC20InvalidReceiver("),
    # Wrong lengths
    (lambda n, who: raw_settle(n, ODD), "EntriesMalformed(bytesGiven=21, largest=20000)"),
    (lambda n, who: raw_settle(n, LONG), "EntriesMalformed(bytesGiven=20020, largest=20000)"),
    (lambda n, who: raw_settle(n, b"", ODD), "EntriesMalformed(bytesGiven=21, largest=20000)"),
    (lambda n, who: raw_settle(n, b"", LONG), "EntriesMalformed(bytesGiven=20020, largest=20000)"),
    (
        lambda n, who: send(n.tokenomics, who.oracle, "proposeBonus", NEXUS, ODD),
        "EntriesMalformed(bytesGiven=21, largest=20000)",
    ),
    (lambda n, who: n.users.register(who.holder, NEXUS, [bytes(32)], []), "LengthMismatch(expected=1, given=0)"),
    (lambda n, who: n.users.fund(who.holder, [0, 1], [1]), "LengthMismatch(expected=2, given=1)"),
    (lambda n, who: n.nodes.bond(who.holder, [0], []), "LengthMismatch(expected=1, given=0)"),
    # What there is not, or not any more
    (lambda n, who: n.tokenomics.claim(who.stranger, 0), "NothingToClaim(node=0)"),
    (lambda n, who: n.users.register(who.holder, NEXUS, [b"\1" * 32] * 2, [who.owner] * 2), "IdentityTaken(identity=0x0101"),
    (lambda n, who: n.users.fund(who.holder, [USERS], [1]), f"UnknownUser(user={USERS})"),
    (lambda n, who: n.nodes.bond(who.holder, [NODES], [1]), f"UnknownNode(node={NODES})"),
    (lambda n, who: n.tokenomics.open_books(who.stranger, [0, NODES]), f"UnknownPayee(node={NODES})"),
    (lambda n, who: n.tokenomics.pay_treasury(who.owner, who.owner, 1), "AmountNotOwed(asked=1, owed=0)"),
    (lambda n, who: n.tokenomics.pay_auditors(who.owner, who.owner, 1), "AmountNotOwed(asked=1, owed=0)"),
    (lambda n, who: n.tokenomics.grant_faucet(who.holder, [0], [1]), "AmountNotOwed(asked=1, owed=0)"),
    (lambda n, who: n.tokenomics.reject_bonus(who.owner), "NoProposal()"),
    (lambda n, who: n.tokenomics.pay_bonus(who.stranger, *NO_WEIGHTS), "NoProposal()"),
    # More than there is, or may be
    (lambda n, who: n.tokenomics.set_rates(who.owner, RATES._replace(burn_ppm=PPM + 1)), "RateTooLarge(ppm=1000001)"),
    (lambda n, who: n.tokenomics.set_bonus_terms(who.owner, BonusTerms(1, PPM, 1)), "ReturnedTooLarge(ppm=1000000)"),
    (lambda n, who: n.tokenomics.grant_faucet(who.holder, [0, 1], [2**63, 2**63]), f"BudgetExceeded(asked={2**64}, left="),
    (
        lambda n, who: n.users.fund(who.stranger, [0], [1]),
        f"ERC20InsufficientAllowance(spender=0x{NETWORK.users.address.hex()}",
    ),
    (lambda n, who: n.users.fund(who.holder, [0, 1], [2**64 - 1] * 2), "ERC20InsufficientAllowance("),
    (lambda n, who: n.token.transfer(who.stranger, who.owner, 1), "ERC20InsufficientBalance("),
    # LAI that would be lost
    (lambda n, who: n.token.transfer(who.holder, n.tokenomics.address, 1), "SentToContract(to=0x"),
    (lambda n, who: n.token.transfer(who.holder, n.token.address, 1), "SentToContract(to=0x"),
    (lambda n, who: n.tokenomics.pay_treasury(who.owner, n.users.address, 0), "PaysContract(payee=0x"),
]
NO_WEIGHTS = np.zeros(0, np.int64), np.zeros(0, np.int64)


@pytest.mark.parametrize(
    ("act", "reason"), REFUSALS, ids=[f"{i}-{reason.split('(')[0]}" for i, (_, reason) in enumerate(REFUSALS)]
)
def test_a_forbidden_or_wrong_call_reverts_with_its_name(
    network: Network, act: Callable[[Network, Actors], Receipt], reason: str
) -> None:
    before = money(network)
    receipt = act(network, WHO)
    assert not receipt.ok
    with pytest.raises(Reverted) as refusal:
        receipt.raise_for_revert()
    assert str(refusal.value).startswith(reason)
    assert money(network) == before


def test_reading_what_does_not_exist_raises_the_decoded_reason(network: Network) -> None:
    with pytest.raises(Reverted, match=rf"UnknownNode\(node={NODES}\)"):
        network.nodes.operator_of(NODES)
    with pytest.raises(Reverted, match="UnknownName"):
        network.book.get("Nothing")
    with pytest.raises(Reverted, match="UnknownIdentity"):
        network.users.id_of(keccak(b"nobody"))


def test_the_deployer_keeps_no_role(network: Network) -> None:
    assert network.book.owner() == WHO.owner
    assert network.token.balance_nlai(WHO.deployer) == 0


def test_no_more_than_the_cap_is_ever_minted_however_much_is_burned() -> None:
    """What is minted for a bonus is what the treasury lacks, and never more than the cap leaves."""
    cap = 1_000 * NANO
    network, who = start(users=1, nodes=1, supply_nlai=cap - 5, cap_nlai=cap, bonus=BonusTerms(10**6 * NANO, PPM - 1, 0))
    network.tokenomics.set_rates(who.owner, Rates(PPM, 0, 0, 0, 0)).raise_for_revert()
    network.users.fund(who.holder, [0], [NANO]).raise_for_revert()
    end(network, 0)
    network.tokenomics.settle(who.oracle, chunk({0: (NANO, 0)}, {0: (NANO, 0)})).raise_for_revert()
    for _ in range(2):
        weights = np.array([0]), np.array([1])
        network.tokenomics.propose_bonus(who.oracle, NEXUS, *weights).raise_for_revert()
        network.tokenomics.pay_bonus(who.stranger, *weights).raise_for_revert()
        assert network.token.minted_wei() == network.token.cap_wei() == cap * NANO
        assert network.tokenomics.earned(0) == Earned(5, 0, 0)
        go_to(network, network.chain.block().timestamp_s + EPOCH_S)


@settings(max_examples=20)
@given(st.sampled_from(["users", "nodes"]), st.data())
def test_a_malformed_chunk_is_refused_before_it_is_sent(ids: str, data: st.DataObject) -> None:
    good: dict[str, Any] = {"users": [0, 1], "debit_purchased_nlai": [1, 1], "debit_faucet_nlai": [0, 0]}
    good |= {"nodes": [0, 1], "gross_purchased_nlai": [1, 1], "gross_faucet_nlai": [0, 0]}
    wrong = data.draw(st.sampled_from([[0, 0], [0, -1], [0, 2**32], [0], list(range(1001))]))
    columns = {name: np.array(values, np.int64) for name, values in (good | {ids: wrong}).items()}
    with pytest.raises(ValueError, match="chunk: "):
        Chunk(1, 0, 0, **columns)
