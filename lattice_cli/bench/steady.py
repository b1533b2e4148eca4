"""A network in its steady state, on which each operation is measured as `Bridge` sends it.

Everyone has done everything before, so that a slot which lives on is written over, not first filled: users have credit, nodes
have been paid, operators hold LAI. In a settlement every other user pays from faucet credit, the rest from purchased credit;
an amount has three bytes, as an hour's debits do.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lattice_core.batch import MAX_ENTRIES, Chunk
from lattice_core.census import identity
from lattice_core.chain.bridge import ROWS
from lattice_core.chain.deployment import deploy
from lattice_core.chain.genesis import ROLES, genesis_of, role_key
from lattice_core.chain.keys import key_of
from lattice_core.chain.port import Chain, Receipt, Transaction
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Voucher, sign
from lattice_core.config import Config

CREDIT_NLAI, DEBIT_NLAI, PRICE_NLAI, BONUS_NLAI = 10**11, 2_000_000, 400_000_000, 10**9
_NEXUS = 0
_FIRST_NODE_KEY = 2**32


class Steady:
    """The network. A method named after an operation sends it, with the entries and nodes it is given, and returns the receipt,
    or raises Reverted.
    """

    def __init__(self, chain: Chain, config: Config, users: int = MAX_ENTRIES, nodes: int = MAX_ENTRIES) -> None:
        """Deploy what `config` says, and do everything once. Raises Reverted."""
        genesis = genesis_of(config, _NEXUS)
        genesis = replace(
            genesis,
            nodes=genesis.nodes._replace(rise_ppm=0),  # else a thousand joins at once burn the supply
            bonus=genesis.bonus._replace(per_day_nlai=BONUS_NLAI),
        )
        self.chain = chain
        self.network = network = deploy(chain, genesis)
        self._bonus_window_s = genesis.bonus.window_s
        self._epochs = network.clock.epochs()
        self._domain = domain(chain.chain_id, network.tokenomics.address)
        self._role = {role: role_key(role).address for role in ROLES}
        self._users = self._nodes = self._models = 0
        self._payer = users  # without faucet credit, which a voucher would take first
        budget_nlai = 2 * users * CREDIT_NLAI
        for contract in (network.users, network.nodes, network.tokenomics):
            network.token.approve(self._role["holder"], contract.address, genesis.supply_nlai).raise_for_revert()
        network.tokenomics.endow(self._role["holder"], budget_nlai).raise_for_revert()
        network.tokenomics.set_budget(self._role["owner"], budget_nlai, 10**9).raise_for_revert()
        for ids in _batches(users):
            self.register_users(len(ids))
            self.fund_users(len(ids), ids.start)
            self.grant_faucet(len(ids), ids.start)
        self.register_users(1)
        self.fund_users(1, self._payer)
        for ids in _batches(nodes):
            self.register_nodes(len(ids))
            self.bond_nodes(len(ids), ids.start)
            self.settle(2, len(ids), ids.start)
        self.post_status(nodes)
        self.pay_bonus(nodes)
        for operation in (self.collect, self.claim, self.withdraw):
            operation()

    def register_users(self, count: int) -> Receipt:
        ids = range(self._users, self._users + count)
        self._users += count
        owners = [key_of(user).address for user in ids]
        receipt = self.network.users.register(self._role["registrar"], _NEXUS, [identity(user) for user in ids], owners)
        return receipt.raise_for_revert()

    def fund_users(self, count: int, first: int = 0) -> Receipt:
        ids = list(range(first, first + count))
        return self.network.users.fund(self._role["holder"], ids, [CREDIT_NLAI] * count).raise_for_revert()

    def grant_faucet(self, count: int, first: int = 0) -> Receipt:
        ids = list(range(first, first + count))
        return self.network.tokenomics.grant_faucet(self._role["faucet"], ids, [CREDIT_NLAI // 4] * count).raise_for_revert()

    def request_withdrawal(self) -> Receipt:
        return self.network.users.request_withdrawal(key_of(0).address, 0, DEBIT_NLAI).raise_for_revert()

    def withdraw(self) -> Receipt:
        self.request_withdrawal()
        self.end_epochs(2 + 2 * self._epochs.grace + self._epochs.collection)
        return self.network.users.withdraw(key_of(0).address, 0).raise_for_revert()

    def register_nodes(self, count: int) -> Receipt:
        operators = [_operator(node) for node in range(self._nodes, self._nodes + count)]
        self._nodes += count
        holder = self._role["holder"]
        return self.network.nodes.register(holder, operators, operators, [0] * count, [0] * count).raise_for_revert()

    def bond_nodes(self, count: int, first: int = 0) -> Receipt:
        ids = list(range(first, first + count))
        return self.network.nodes.bond(self._role["holder"], ids, [CREDIT_NLAI] * count).raise_for_revert()

    def post_offers(self, count: int) -> Receipt:
        """One node's offers of so many models that it has not offered before."""
        models = [identity(model) for model in range(self._models, self._models + count)]
        self._models += count
        prices = [PRICE_NLAI] * count
        return self.network.nodes.post_offers(_operator(0), [0] * count, models, [0] * count, prices, prices).raise_for_revert()

    def settlement(self, users: NDArray[np.int64], nodes: NDArray[np.int64]) -> Transaction:
        """The first chunk of the epoch that has just ended, with these ids."""
        faucet = users % 2 * DEBIT_NLAI
        purchased = DEBIT_NLAI - faucet
        grosses = (_spread(int(debits.sum()), len(nodes)) for debits in (purchased, faucet))
        chunk = Chunk(_NEXUS, self._ended(), 0, users, purchased, faucet, nodes, *grosses)
        tokenomics = self.network.tokenomics
        return Transaction(self._role["oracle"], tokenomics.address, tokenomics.encode_settle(chunk))

    def settle(self, users: int, nodes: int, first: int = 0) -> Receipt:
        self.end_epochs(1)
        return self.chain.transact(self.settlement(np.arange(users), first + np.arange(nodes))).raise_for_revert()

    def open_books(self, count: int) -> Receipt:
        """Of nodes that have just been registered."""
        self.register_nodes(count)
        ids = list(range(self._nodes - count, self._nodes))
        return self.network.tokenomics.open_books(self._role["holder"], ids).raise_for_revert()

    def present(self) -> Receipt:
        self.end_epochs(1 + self._epochs.grace)
        voucher = Voucher(_NEXUS, self._ended() - self._epochs.grace, self._payer, 0, DEBIT_NLAI, 1_000, identity(0))
        signed = sign(voucher, key_of(self._payer), self._domain)
        return self.network.tokenomics.present(_operator(0), signed).raise_for_revert()

    def collect(self) -> Receipt:
        self.present()
        epoch = self._ended() - self._epochs.grace
        self.end_epochs(1 + self._epochs.grace)
        return self.network.tokenomics.collect(_operator(0), _NEXUS, epoch, self._payer, 0).raise_for_revert()

    def claim(self) -> Receipt:
        self.settle(2, 1)
        return self.network.tokenomics.claim(_operator(0), 0).raise_for_revert()

    def propose_bonus(self, nodes: int) -> Receipt:
        """Weights that the owner then rejects."""
        receipt = self._propose_bonus(nodes)
        self.network.tokenomics.reject_bonus(self._role["owner"]).raise_for_revert()
        return receipt

    def pay_bonus(self, nodes: int) -> Receipt:
        """For fees of which a part has been burned since the last one."""
        self.settle(2, nodes)
        self._propose_bonus(nodes)
        self.chain.advance_block(self._bonus_window_s)
        return self.network.tokenomics.pay_bonus(self._role["oracle"], *_weights(nodes)).raise_for_revert()

    def post_status(self, nodes: int) -> Receipt:
        """A report that changes every node's reputation."""
        self.end_epochs(1)
        epoch = self._ended()
        healthy, reputation = np.ones(nodes, np.bool_), np.full(nodes, 0.5 + epoch % 400 / 1_000)
        return self.network.status.post(self._role["oracle"], _NEXUS, epoch, healthy, reputation).raise_for_revert()

    def end_epochs(self, count: int) -> None:
        """Let time pass."""
        self.chain.advance_block(count * self._epochs.length_s)

    def _propose_bonus(self, nodes: int) -> Receipt:
        return self.network.tokenomics.propose_bonus(self._role["oracle"], _NEXUS, *_weights(nodes)).raise_for_revert()

    def _ended(self) -> int:
        """The last epoch that is over."""
        return (self.chain.block().timestamp_s - self._epochs.start_s) // self._epochs.length_s - 1


def _batches(count: int) -> list[range]:
    """Ids in the batches in which they are registered."""
    return [range(first, min(first + ROWS, count)) for first in range(0, count, ROWS)]


def _operator(node: int) -> bytes:
    return key_of(_FIRST_NODE_KEY + node).address


def _spread(total_nlai: int, nodes: int) -> NDArray[np.int64]:
    """An amount in as equal parts as there are."""
    return np.full(nodes, total_nlai // nodes) + (np.arange(nodes) < total_nlai % nodes)


def _weights(nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nodes, and weights that are all the same."""
    return np.arange(nodes), np.full(nodes, DEBIT_NLAI)
