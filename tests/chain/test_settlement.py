"""Settlement: the contract equals its shadow to the nanoLAI (INV-9), settles a chunk once (INV-10), and refuses by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lattice_core.batch import Chunk
from lattice_core.chain.contracts import Account, Network
from lattice_core.chain.port import Receipt, Reverted, Transaction
from lattice_core.split import Cuts, Parts, Rates, below_ceiling, credit, debit, split
from lattice_core.units import MAX_SUPPLY_NLAI, NANO, PPM
from tests.chain.networks import NEXUS, RATES, Actors, chunk, start

USERS, NODES = 4, 3
NETWORK, WHO = start(users=USERS, nodes=NODES)
FRESH = NETWORK.chain.snapshot()


@pytest.fixture
def network() -> Network:
    """Four users, three nodes, nobody funded."""
    NETWORK.chain.revert(FRESH)
    return NETWORK


@pytest.fixture
def funded(network: Network) -> Network:
    """Each user with 100 LAI purchased and 10 LAI of faucet credit."""
    ids = range(USERS)
    network.users.fund(WHO.holder, ids, [100 * NANO] * USERS).raise_for_revert()
    network.users.grant_faucet(WHO.holder, ids, [10 * NANO] * USERS).raise_for_revert()
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


@settings(phases=[Phase.generate])  # shrinking takes minutes
@given(settlements())
def test_inv_9_the_contract_settles_as_its_shadow_does(settlement: tuple[Rates, list[tuple[int, int]], Chunk]) -> None:
    rates, balances, batch = settlement
    NETWORK.chain.revert(FRESH)
    NETWORK.tokenomics.set_rates(WHO.owner, rates).raise_for_revert()
    purchased, faucet = (np.array(column, np.int64) for column in zip(*balances, strict=True))
    NETWORK.users.fund(WHO.holder, range(USERS), purchased.tolist()).raise_for_revert()
    NETWORK.users.grant_faucet(WHO.holder, range(USERS), faucet.tolist()).raise_for_revert()

    settled = NETWORK.settled(batch, NETWORK.tokenomics.settle(WHO.oracle, batch))

    skipped = np.zeros(len(batch.users), np.bool_)
    claimed, applied = debit(batch.users, batch.debit_purchased_nlai, batch.debit_faucet_nlai, purchased, faucet, skipped)
    operators, delegators = np.zeros(NODES, np.int64), np.zeros(NODES, np.int64)
    grosses = (batch.nodes, batch.gross_purchased_nlai, batch.gross_faucet_nlai)
    cuts = credit(*grosses, claimed, applied, below_ceiling(rates, 0), operators, delegators)
    assert settled.debited == applied
    assert settled.cuts == cuts
    assert settled.skipped.tolist() == batch.users[skipped].tolist()
    assert settled.applied.tolist() == batch.users[~skipped].tolist()
    for user in range(USERS):
        account = NETWORK.users.account(user)
        assert (account.purchased_nlai, account.faucet_nlai) == (purchased[user], faucet[user])
    for node in range(NODES):
        assert NETWORK.tokenomics.earned_nlai(node) == (operators[node], delegators[node])
    assert NETWORK.token.burned_nlai() == cuts.burned_nlai
    assert NETWORK.token.balance_nlai(NETWORK.tokenomics.address) == NETWORK.tokenomics.total_claims_nlai()


def test_a_fee_is_cut_in_order_and_the_operator_can_claim_the_rest(funded: Network) -> None:
    batch = chunk({0: (1_003, 0)}, {2: (1_003, 0)})
    settled = funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch))
    assert settled.cuts == split(1_003, RATES) == Cuts(11, 40, 20, 47, 885)
    assert settled.debited == Parts(1_003, 0)
    funded.tokenomics.claim(WHO.stranger, 2).raise_for_revert()
    assert funded.token.balance_nlai(funded.nodes.operator_of(2)) == 885
    assert funded.tokenomics.earned_nlai(2) == (0, 47)


def test_a_treasury_at_its_ceiling_leaves_its_share_to_the_others(funded: Network) -> None:
    funded.tokenomics.set_rates(WHO.owner, RATES._replace(treasury_ceiling_nlai=1)).raise_for_revert()
    cuts = []
    for epoch in range(2):
        batch = chunk({0: (NANO, 0)}, {0: (NANO, 0)}, epoch=epoch)
        cuts.append(funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch)).cuts.treasury_nlai)
    assert cuts == [39_600_000, 0]


def test_a_user_without_the_money_is_skipped_and_the_others_still_pay(funded: Network) -> None:
    batch = chunk({0: (100 * NANO, 0), 1: (300 * NANO, 0), 9: (0, 0)}, {0: (400 * NANO, 0)})
    settled = funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch))
    assert settled.applied.tolist() == [0]
    assert settled.skipped.tolist() == [1, 9]
    assert settled.debited == Parts(100 * NANO, 0)
    assert funded.users.account(0) == Account(0, 10 * NANO, settled=1)
    assert funded.users.account(1) == Account(100 * NANO, 10 * NANO, settled=0)


def test_what_an_unknown_node_earned_is_the_treasurys(funded: Network) -> None:
    batch = chunk({0: (NANO, NANO)}, {NODES: (NANO, NANO)})
    settled = funded.settled(batch, funded.tokenomics.settle(WHO.oracle, batch))
    assert settled.cuts == Cuts(0, 2 * NANO, 0, 0, 0)


def test_an_older_epoch_that_settles_late_does_not_turn_a_user_back(funded: Network) -> None:
    for epoch in (7, 3):
        batch = chunk({0: (1, 0)}, {0: (1, 0)}, epoch=epoch)
        funded.tokenomics.settle(WHO.oracle, batch).raise_for_revert()
    assert funded.users.account(0).settled == 8


def test_inv_10_a_chunk_settles_once(funded: Network) -> None:
    batch = chunk({0: (NANO, NANO)}, {0: (NANO, NANO)}, epoch=5, number=300)
    funded.tokenomics.settle(WHO.oracle, batch).raise_for_revert()
    assert funded.tokenomics.is_settled(NEXUS, 5, 300)
    before = money(funded)
    again = funded.tokenomics.settle(WHO.oracle, batch)
    with pytest.raises(Reverted, match=r"AlreadySettled\(nexus=1, epoch=5, chunk=300\)"):
        again.raise_for_revert()
    assert money(funded) == before
    assert not funded.tokenomics.is_settled(NEXUS, 5, 301)
    other = chunk({0: (NANO, NANO)}, {0: (NANO, NANO)}, epoch=5, number=301)
    assert funded.tokenomics.settle(WHO.oracle, other).ok


def money(network: Network) -> tuple[object, ...]:
    """Everything that a settlement can move."""
    contracts = (network.users, network.nodes, network.tokenomics)
    return (
        network.token.supply_nlai(),
        [network.token.balance_nlai(contract.address) for contract in contracts],
        [network.users.account(user) for user in range(USERS)],
        [network.tokenomics.earned_nlai(node) for node in range(NODES)],
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


def _raw_settle(network: Network, users: bytes) -> Receipt:
    data = network.tokenomics.abi.encode_call("settle", NEXUS, 0, 0, users, b"")
    return network.chain.transact(Transaction(WHO.oracle, network.tokenomics.address, data))


REFUSALS: list[tuple[Callable[[Network, Actors], Receipt], str]] = [
    (lambda n, who: n.tokenomics.settle(who.stranger, chunk({}, {})), "NotOracle"),
    (lambda n, who: n.tokenomics.settle(who.oracle, chunk({}, {}, nexus=2)), "NotOracle"),
    (lambda n, who: n.tokenomics.set_rates(who.deployer, RATES), "NotOwner"),
    (lambda n, who: n.tokenomics.set_rates(who.owner, RATES._replace(burn_ppm=PPM + 1)), "RateTooLarge(ppm=1000001)"),
    (lambda n, who: n.tokenomics.set_oracle(who.deployer, 1, who.deployer), "NotOwner"),
    (lambda n, who: n.tokenomics.claim(who.stranger, 0), "NothingToClaim(node=0)"),
    (lambda n, who: _raw_settle(n, bytes(21)), "EntriesMalformed(bytesGiven=21, largest=20000)"),
    (lambda n, who: _raw_settle(n, bytes(20 * 1001)), "EntriesMalformed(bytesGiven=20020, largest=20000)"),
    (lambda n, who: _send(n, n.users, who.stranger, "debit", 0, b""), "NotTokenomics"),
    (lambda n, who: n.users.register(who.stranger, [bytes(32)], []), "LengthMismatch(expected=1, given=0)"),
    (lambda n, who: n.users.register(who.stranger, [bytes(32)] * 2, [who.owner] * 2), "IdentityTaken"),
    (lambda n, who: n.users.register(who.stranger, [bytes(32)], [bytes(20)]), "OwnerMissing"),
    (lambda n, who: n.users.fund(who.holder, [USERS], [1]), f"UnknownUser(user={USERS})"),
    (lambda n, who: n.users.fund(who.stranger, [0], [1]), "ERC20InsufficientAllowance"),
    (lambda n, who: n.users.fund(who.holder, [0, 1], [2**64 - 1] * 2), "ERC20InsufficientAllowance"),
    (lambda n, who: n.nodes.bond(who.holder, [NODES], [1]), f"UnknownNode(node={NODES})"),
    (lambda n, who: n.nodes.register(who.holder, [bytes(20)], [0], [bytes(32)], [0]), f"OperatorMissing(node={NODES})"),
    (lambda n, who: n.token.mint(who.deployer, who.deployer, 1), "NotOwner"),
    (lambda n, who: n.token.mint(who.owner, who.owner, 1), "CapExceeded(amount=1000000000, left=0)"),
    (lambda n, who: n.book.set(who.deployer, "Tokenomics", who.deployer), "OwnableUnauthorizedAccount"),
]


def _send(network: Network, contract: Any, sender: bytes, function: str, *args: Any) -> Receipt:
    return network.chain.transact(Transaction(sender, contract.address, contract.abi.encode_call(function, *args)))


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


def test_the_deployer_keeps_no_role(network: Network) -> None:
    assert network.book.owner() == WHO.owner
    assert network.token.balance_nlai(WHO.deployer) == 0


@settings(max_examples=20)
@given(st.sampled_from(["users", "nodes"]), st.data())
def test_a_malformed_chunk_is_refused_before_it_is_sent(ids: str, data: st.DataObject) -> None:
    good: dict[str, Any] = {"users": [0, 1], "debit_purchased_nlai": [1, 1], "debit_faucet_nlai": [0, 0]}
    good |= {"nodes": [0, 1], "gross_purchased_nlai": [1, 1], "gross_faucet_nlai": [0, 0]}
    wrong = data.draw(st.sampled_from([[0, 0], [0, -1], [0, 2**32], [0], list(range(1001))]))
    columns = {name: np.array(values, np.int64) for name, values in (good | {ids: wrong}).items()}
    with pytest.raises(ValueError, match="chunk: "):
        Chunk(1, 0, 0, **columns)
