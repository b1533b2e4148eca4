"""Lattice's contracts as Python objects: `network.users.fund(payer, ids, amounts)`.

Money is int nanoLAI and becomes wei at the token only. A method that changes the chain takes the sender first, is one
transaction, and returns its receipt, which says whether it reverted (`receipt.raise_for_revert()`); a method that reads returns
the value and raises `Reverted` if the contract does.
"""

from lattice_core.chain.contracts.network import Collected, Network, Settled

__all__ = ["Collected", "Network", "Settled"]
