"""What the chain must have settled, computed again from a journal: the kernel's batches, through the contracts' shadow."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lattice_core.batch import Chunk
from lattice_core.config import Config, parse
from lattice_core.events import (
    BatchConfirmed,
    Deposited,
    Event,
    FaucetGranted,
    NodeRegistered,
    Submit,
    VoucherCollected,
    Withdrawn,
)
from lattice_core.journal import JournalError, read
from lattice_core.nexus import Nexus
from lattice_core.settlement import Settlement
from lattice_core.split import Cuts, Rates, below_ceiling, credit, debit, split


class Shadow:
    """The contracts' money as the journal's facts tell it: escrows by user, what the treasury may claim.

    A journal does not tell what the treasury paid as a bonus, which counts only for one that reaches its ceiling.
    """

    def __init__(self, config: Config) -> None:
        self.rates = Rates.of(config)
        self.treasury_nlai = config.faucet_budget_nlai
        self._purchased, self._faucet = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._nodes = 0

    def see(self, event: Event) -> None:
        """A fact of the chain."""
        match event:
            case Deposited(account=account, nlai=nlai):
                self._balances(account)
                self._purchased[account] += nlai
            case FaucetGranted(account=account, nlai=nlai):
                self._balances(account)
                self._faucet[account] += nlai
                self.treasury_nlai -= nlai
            case Withdrawn(account=account, nlai=nlai):
                self._purchased[account] -= nlai
            case VoucherCollected(account=account, nlai=nlai, faucet_nlai=faucet_nlai):
                self._purchased[account] -= nlai
                self._faucet[account] -= faucet_nlai
                rates = below_ceiling(self.rates, self.treasury_nlai)
                self.treasury_nlai += split(nlai, rates).treasury_nlai + split(faucet_nlai, rates).treasury_nlai
            case NodeRegistered(node=node):
                self._nodes = max(self._nodes, node + 1)

    def settle(self, batch: Chunk) -> tuple[Settlement, tuple[int, ...]]:
        """What settling `batch` does now, and the users it skips."""
        skips = np.zeros(len(batch.users), np.int64)
        claimed, applied = debit(
            batch.users, batch.debit_purchased_nlai, batch.debit_faucet_nlai, self._purchased, self._faucet, skips
        )  # fmt: skip
        earned: list[Any] = [np.zeros(self._nodes, np.int64) for _ in range(2)]
        rates = below_ceiling(self.rates, self.treasury_nlai)
        gross = batch.gross_purchased_nlai, batch.gross_faucet_nlai
        cuts = Cuts(*credit(batch.nodes, *gross, claimed, applied, rates, *earned))
        self.treasury_nlai += cuts.treasury_nlai
        skipped = batch.users[skips != 0]
        users = len(batch.users) - len(skipped)
        settlement = Settlement(batch.epoch, batch.chunk, users, len(skipped), len(batch.nodes), *applied, *cuts)
        return settlement, tuple(skipped.tolist())

    def _balances(self, account: int) -> None:
        missing = account + 1 - len(self._purchased)
        if missing > 0:
            more = np.zeros(max(missing, len(self._purchased)), np.int64)
            self._purchased, self._faucet = np.concatenate([self._purchased, more]), np.concatenate([self._faucet, more])


def settlements(journal: Iterable[str], source: str) -> Iterator[Settlement]:
    """Every settlement that the journal says the chain confirmed, in its order. `source` names the journal in errors.

    Raises JournalError, also for a confirmation of a batch that the events before it do not lead to, or of other users.
    """
    header, events = read(journal, source)
    config = parse(header.config, f"{source}: header: config")
    nexus, shadow = Nexus(config), Shadow(config)
    sent: dict[tuple[int, int], Chunk] = {}
    for number, event in enumerate(events, 2):
        shadow.see(event)
        if isinstance(event, BatchConfirmed):
            batch = sent.pop((event.epoch, event.chunk), None)
            if batch is None:
                raise JournalError(
                    f"{source}: line {number}: confirms batch ({event.epoch}, {event.chunk}), which was not sent"
                )
            settlement, skipped = shadow.settle(batch)
            if skipped != event.skipped:
                raise JournalError(f"{source}: line {number}: must skip users {list(skipped)}, not {list(event.skipped)}")
            yield settlement
        for command in nexus.handle(event):
            if isinstance(command, Submit):
                sent[command.batch.epoch, command.batch.chunk] = command.batch
