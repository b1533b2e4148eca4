"""Who decides: users and operators. An agent sees a view and proposes actions; the model orders and performs them.

An agent of one's own is a class with `key` and `propose`, added to the model like any Mesa agent.
"""

from collections.abc import Iterable
from typing import NamedTuple

import mesa

from lattice_core.census import NodeEntry, UserEntry
from lattice_core.state import Rows
from lattice_core.units import DAY_NS


class View(NamedTuple):
    """What agents see when an epoch begins: time, and the kernel's tables of accounts and nodes as they are then.

    What is withdrawn stays locked until so many epochs after that of the request have passed.
    """

    epoch: int
    t_ns: int
    locked_epochs: int
    accounts: Rows
    nodes: Rows


class TopUp(NamedTuple):
    """Move `nlai` from the user's wallet into escrow."""

    account: int
    nlai: int


class RequestWithdrawal(NamedTuple):
    """Ask to have `nlai` of purchased credit back into the wallet, in all."""

    account: int
    nlai: int


class Withdraw(NamedTuple):
    """Take what was asked for, once the escrow is no longer locked."""

    account: int


class Claim(NamedTuple):
    """Have the chain pay out what the node has earned."""

    node: int


type Action = TopUp | RequestWithdrawal | Withdraw | Claim


class User(mesa.Agent):
    """Keeps the escrow between what a top-up fills and what may be too much, while there is something in the wallet."""

    def __init__(self, model: mesa.Model, entry: UserEntry) -> None:
        super().__init__(model)
        self.entry = entry
        self.key = entry.key
        self._asked_in: int | None = None
        self._topped_up_nlai = 0
        self._acts = bool(entry.population.budget.top_up_nlai) or entry.population.budget.withdraw_above_nlai is not None

    def save(self) -> tuple[int | None, int]:
        """What it remembers, for `load`."""
        return self._asked_in, self._topped_up_nlai

    def load(self, saved: tuple[int | None, int]) -> None:
        """Remember that."""
        self._asked_in, self._topped_up_nlai = saved

    def propose(self, view: View) -> Iterable[Action]:
        """A top-up when less than one is left; a withdrawal of what is too much, and its payment when it has thawed."""
        if not self._acts:
            return
        budget, account = self.entry.population.budget, self.entry.account
        held = view.accounts[account]
        free_nlai = int(held["free_nlai"])
        wallet_nlai = budget.wallet_nlai + int(held["withdrawn_nlai"]) - self._topped_up_nlai
        amount = min(budget.top_up_nlai, wallet_nlai)
        if amount and free_nlai < budget.top_up_nlai:
            self._topped_up_nlai += amount
            yield TopUp(account, amount)
        elif held["withdrawing_nlai"]:
            if self._asked_in is not None and view.epoch > self._asked_in + view.locked_epochs:
                yield Withdraw(account)
        elif budget.withdraw_above_nlai is not None and free_nlai > budget.withdraw_above_nlai:
            self._asked_in = view.epoch
            yield RequestWithdrawal(account, free_nlai - budget.withdraw_above_nlai)


class Operator(mesa.Agent):
    """Runs a node and claims its earnings once a day."""

    def __init__(self, model: mesa.Model, entry: NodeEntry) -> None:
        super().__init__(model)
        self.entry = entry
        self.key = entry.key
        self._claimed_ns = 0
        self._settled_nlai = 0

    def save(self) -> tuple[int, int]:
        """What it remembers, for `load`."""
        return self._claimed_ns, self._settled_nlai

    def load(self, saved: tuple[int, int]) -> None:
        """Remember that."""
        self._claimed_ns, self._settled_nlai = saved

    def propose(self, view: View) -> Iterable[Action]:
        """A claim, a day after the last one, if anything was settled since."""
        node = view.nodes[self.entry.node]
        settled_nlai = int(node["settled_nlai"] + node["settled_faucet_nlai"])
        if view.t_ns - self._claimed_ns >= DAY_NS and settled_nlai > self._settled_nlai:
            self._claimed_ns, self._settled_nlai = view.t_ns, settled_nlai
            yield Claim(self.entry.node)
