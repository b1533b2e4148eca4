"""What must hold of the kernel at every instant (INV-1 and INV-2), checked from copies of its tables.

The chain's side of INV-1, that a contract's balance is the sum of the claims it records, is the bridge's to check.
"""

import numpy as np

from lattice_core.directory import Rows
from lattice_core.nexus import Nexus


class InvariantError(AssertionError):
    """An invariant does not hold: its number, and the numbers that disagree."""


def check(nexus: Nexus) -> None:
    """Both invariants. Raises InvariantError."""
    check_money(nexus)
    check_requests(nexus)


def check_money(nexus: Nexus) -> None:
    """INV-1 off chain: every nanoLAI of an account is in one place, and debits equal what nodes are owed.

    Per account, purchased and faucet credit apart: given = free + held + debit + unsettled + overdue + spent (+ withdrawn, of
    purchased credit), none negative. Per chunk of accounts: Σ debit = Σ gross of this epoch; per pending batch: Σ unsettled =
    Σ gross that it claims. In all: Σ settled ≤ Σ spent (rounding after a skipped debit is the treasury's).
    """
    accounts, nodes, batches = nexus.table("accounts"), nexus.table("nodes"), nexus.table("batches")
    ring, chunk_users = (int(nexus.table("params")[0][name]) for name in ("ring", "chunk_users"))
    gross, claimed = (nexus.table(name).reshape(-1, len(nodes)) for name in ("gross", "unsettled_gross"))
    unsettled = nexus.table("unsettled").reshape(-1, ring)
    for given, prefix in (("deposited", ""), ("granted", "faucet_")):
        places = [f"{prefix}{place}_nlai" for place in ("free", "held", "debit", "unsettled", "overdue", "spent")]
        places += [] if prefix else ["withdrawn_nlai"]
        _equal("INV-1: account", accounts, f"{given}_nlai", places)
        for place in places:
            if accounts[place].size and accounts[place].min() < 0:
                account = int(accounts[place].argmin())
                raise InvariantError(f"INV-1: account {account}: {place} = {accounts[place][account]}, must not be negative")
        wrong = np.flatnonzero(accounts[f"{prefix}unsettled_nlai"] != unsettled[f"{prefix}nlai"].sum(axis=1))
        if len(wrong):
            raise InvariantError(f"INV-1: account {wrong[0]}: {prefix}unsettled_nlai is not what it owes in pending batches")
        for chunk in range(len(gross)):
            rows = slice(chunk * chunk_users, (chunk + 1) * chunk_users)
            _balances(f"chunk {chunk}", accounts[f"{prefix}debit_nlai"][rows], gross[f"{prefix}nlai"][chunk])
            for bucket in range(ring):
                batch = chunk * ring + bucket
                owed = unsettled[f"{prefix}nlai"][rows, bucket]
                _balances(f"batch {batches[batch]['epoch']}, {chunk}", owed, claimed[f"{prefix}nlai"][batch])
        spent, settled = int(accounts[f"{prefix}spent_nlai"].sum()), int(nodes[f"settled_{prefix}nlai"].sum())
        if settled > spent:
            raise InvariantError(f"INV-1: nodes were paid {settled} nanoLAI of {prefix}credit, accounts have spent {spent}")


def check_requests(nexus: Nexus) -> None:
    """INV-2: arrived = completed + failed + rejected + in flight, in all and per account, and likewise each node's legs."""
    ends = ["completed", "failed", "rejected", "in_flight"]
    clock, accounts = nexus.table("clock"), nexus.table("accounts")
    _equal("INV-2: all, row", clock, "arrived", ends)
    _equal("INV-2: account", accounts, "arrived", ends)
    _equal("INV-2: node", nexus.table("nodes"), "legs", ["legs_done", "legs_lost", "legs_cancelled", "in_flight"])
    for name in ("arrived", *ends):
        if accounts[name].sum() != clock[0][name]:
            raise InvariantError(f"INV-2: Σ {name} over accounts = {accounts[name].sum()}, the Nexus counts {clock[0][name]}")


def _balances(what: str, debits: Rows, gross: Rows) -> None:
    if debits.sum() != gross.sum():
        raise InvariantError(f"INV-1: {what}: Σ debits = {debits.sum()}, Σ gross = {gross.sum()} nanoLAI")


def _equal(what: str, rows: Rows, whole: str, parts: list[str]) -> None:
    """In each row, `whole` is the sum of `parts`."""
    for row in np.flatnonzero(rows[whole] != sum(rows[part] for part in parts)):
        numbers = " + ".join(f"{part} {rows[part][row]}" for part in parts)
        raise InvariantError(f"{what} {row}: {whole} {rows[whole][row]} ≠ {numbers}")
