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
    """What agents see when an epoch begins: time, and the kernel's tables of accounts and nodes as they are then."""

    epoch: int
    t_ns: int
    accounts: Rows
    nodes: Rows


class TopUp(NamedTuple):
    """Move `nlai` from the user's wallet into escrow."""

    account: int
    nlai: int


class Claim(NamedTuple):
    """Have the chain pay out what the node has earned."""

    node: int


type Action = TopUp | Claim


class User(mesa.Agent):
    """Keeps the escrow filled from the wallet, while there is something in it."""

    def __init__(self, model: mesa.Model, entry: UserEntry) -> None:
        super().__init__(model)
        self.entry = entry
        self.key = entry.key
        self.wallet_nlai = entry.population.budget.wallet_nlai

    def propose(self, view: View) -> Iterable[Action]:
        """A top-up when less than one is left."""
        budget = self.entry.population.budget
        amount = min(budget.top_up_nlai, self.wallet_nlai)
        if amount and view.accounts[self.entry.account]["free_nlai"] < budget.top_up_nlai:
            self.wallet_nlai -= amount
            yield TopUp(self.entry.account, amount)


class Operator(mesa.Agent):
    """Runs a node and claims its earnings once a day."""

    def __init__(self, model: mesa.Model, entry: NodeEntry) -> None:
        super().__init__(model)
        self.entry = entry
        self.key = entry.key
        self._claimed_ns = 0
        self._settled_nlai = 0

    def propose(self, view: View) -> Iterable[Action]:
        """A claim, a day after the last one, if anything was settled since."""
        node = view.nodes[self.entry.node]
        settled_nlai = int(node["settled_nlai"] + node["settled_faucet_nlai"])
        if view.t_ns - self._claimed_ns >= DAY_NS and settled_nlai > self._settled_nlai:
            self._claimed_ns, self._settled_nlai = view.t_ns, settled_nlai
            yield Claim(self.entry.node)
