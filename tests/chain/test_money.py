"""INV-1 on the chain: whatever is done in whatever order, no nanoLAI appears, vanishes or is claimed twice."""

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lattice_core.chain.abi import keccak
from lattice_core.units import NANO
from tests.chain.networks import NEXUS, address, chunk, start

NETWORK, WHO = start(supply_nlai=10_000 * NANO)
FRESH = NETWORK.chain.snapshot()
AMOUNTS = st.one_of(st.integers(0, 2_000 * NANO), st.integers(0, 3))


class Money(RuleBasedStateMachine):
    """Users, nodes, an oracle and a holder at work; some of what they try is wrong and must move nothing."""

    def __init__(self) -> None:
        super().__init__()
        NETWORK.chain.revert(FRESH)
        self.network = NETWORK
        self.users = 0
        self.nodes = 0
        self.epoch = 0

    @rule(count=st.integers(1, 3))
    def users_register(self, count: int) -> None:
        identities = [keccak(b"user %d" % (self.users + i)) for i in range(count)]
        assert self.network.users.register(WHO.stranger, identities, [address("somebody")] * count).ok
        self.users += count

    @rule(count=st.integers(1, 2))
    def nodes_register(self, count: int) -> None:
        columns = ([address("operator")] * count, [0] * count, [bytes(32)] * count, [0] * count)
        assert self.network.nodes.register(WHO.stranger, *columns).ok
        self.nodes += count

    @rule(data=st.data(), amount=AMOUNTS, faucet=st.booleans(), sender=st.sampled_from([WHO.holder, WHO.stranger]))
    def somebody_funds(self, data: st.DataObject, amount: int, faucet: bool, sender: bytes) -> None:
        user = data.draw(st.integers(0, self.users))
        fund = self.network.users.grant_faucet if faucet else self.network.users.fund
        fund(sender, [user, user], [amount, 1])

    @rule(data=st.data(), amount=AMOUNTS)
    def holder_bonds(self, data: st.DataObject, amount: int) -> None:
        self.network.nodes.bond(WHO.holder, [data.draw(st.integers(0, self.nodes))], [amount])

    @rule(amount=AMOUNTS)
    def holder_burns(self, amount: int) -> None:
        self.network.token.burn(WHO.holder, amount)

    @precondition(lambda self: self.users)
    @rule(data=st.data(), repeat=st.booleans(), off=st.sampled_from([0, 0, 0, 1]))
    def oracle_settles(self, data: st.DataObject, repeat: bool, off: int) -> None:
        ids = st.lists(st.integers(0, self.users), unique=True, min_size=1, max_size=4)
        debits = {user: (data.draw(AMOUNTS), data.draw(AMOUNTS)) for user in data.draw(ids)}
        purchased, faucet = (sum(column) for column in zip(*debits.values(), strict=True))
        first = data.draw(st.integers(0, purchased))
        grosses = {0: (first + off, faucet), 1: (purchased - first, 0)}
        before = self.network.tokenomics.is_settled(NEXUS, self.epoch, 0)
        receipt = self.network.tokenomics.settle(WHO.oracle, chunk(debits, grosses, epoch=self.epoch))
        assert receipt.ok == (off == 0 and not before)
        self.epoch += not repeat

    @rule(data=st.data())
    def somebody_claims(self, data: st.DataObject) -> None:
        node = data.draw(st.integers(0, self.nodes))
        owed, _ = self.network.tokenomics.earned_nlai(node)
        assert self.network.tokenomics.claim(WHO.stranger, node).ok == (owed > 0)

    @invariant()
    def every_balance_is_accounted_for(self) -> None:
        network = self.network
        holders = (WHO.holder, address("operator"), *(c.address for c in (network.users, network.nodes, network.tokenomics)))
        balances = {holder: network.token.balance_nlai(holder) for holder in holders}
        assert (
            sum(balances.values()) == network.token.minted_nlai() - network.token.burned_nlai() == network.token.supply_nlai()
        )
        assert balances[network.users.address] == network.users.total_claims_nlai()
        assert balances[network.nodes.address] == network.nodes.total_bonded_nlai()
        assert balances[network.tokenomics.address] == network.tokenomics.total_claims_nlai()

    @invariant()
    def totals_are_the_sums_of_what_they_total(self) -> None:
        network = self.network
        accounts = [network.users.account(user) for user in range(self.users)]
        assert sum(a.purchased_nlai + a.faucet_nlai for a in accounts) == network.users.total_claims_nlai()
        assert sum(network.nodes.node(node).bond_nlai for node in range(self.nodes)) == network.nodes.total_bonded_nlai()
        earned = np.array([network.tokenomics.earned_nlai(node) for node in range(self.nodes)], np.int64).reshape(-1, 2)
        claims = network.tokenomics.claims()
        assert earned.sum(axis=0).tolist() == [claims.operators_nlai, claims.delegators_nlai]


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=8, stateful_step_count=20, phases=[Phase.generate])  # shrinking takes minutes
