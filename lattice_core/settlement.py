"""What settling a chunk did, whoever says so: the chain's events, or a journal computed again."""

from typing import NamedTuple

from lattice_core.split import Cuts, Parts


class Settlement(NamedTuple):
    """Users debited and skipped, nodes in the batch, what the debits came to, and where that went, in nanoLAI."""

    epoch: int
    chunk: int
    users: int
    skipped: int
    nodes: int
    purchased_nlai: int
    faucet_nlai: int
    burned_nlai: int
    treasury_nlai: int
    auditors_nlai: int
    delegators_nlai: int
    operators_nlai: int

    @property
    def debited(self) -> Parts:
        """What users paid, by the credit that paid."""
        return Parts(self.purchased_nlai, self.faucet_nlai)

    @property
    def cuts(self) -> Cuts:
        """Where it went."""
        return Cuts(self.burned_nlai, self.treasury_nlai, self.auditors_nlai, self.delegators_nlai, self.operators_nlai)
