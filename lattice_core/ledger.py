"""Money off chain: reserve → charge → release, and the debits since the last batch until the chain confirms them.

Faucet credit is spent before purchased credit; the two parts stay apart from the reservation to the batch. Sub-requests draw on
their root's reservation: one payer, one reservation.
"""

import numpy as np

from lattice_core.jit import jit, rows
from lattice_core.split import scale
from lattice_core.state import (
    ACCOUNTS,
    NODES,
    NONE,
    Handle,
    account_at,
    chunk_at,
    clock,
    gross_at,
    leg_at,
    node_at,
    offer_at,
    params,
    request_at,
)
from lattice_core.streams import mix


@jit
def fold(S: Handle, word: int) -> None:
    """Fold one integer of a decision or of the ledger into the rolling digest."""
    c = clock(S)
    c.digest_a = mix(c.digest_a, np.uint64(word))
    c.digest_b = mix(c.digest_b ^ c.digest_a, np.uint64(word))


@jit
def root_of(S: Handle, request: int) -> int:
    """The request whose reservation pays for `request`: its parent, or itself."""
    parent = request_at(S, request).parent
    return request if parent == NONE else parent


@jit
def available_nlai(S: Handle, request: int) -> int:
    """The most that one more leg of `request` may cost: what is held and not committed, and for a root what its account has
    free.

    A sub-request never reaches past its root's reservation.
    """
    r = request_at(S, root_of(S, request))
    uncommitted = r.hold_nlai + r.hold_faucet_nlai - r.committed_nlai
    if request_at(S, request).parent != NONE:
        return uncommitted
    a = account_at(S, r.account)
    return uncommitted + a.free_nlai + a.faucet_free_nlai


@jit
def hold(S: Handle, request: int, nlai: int) -> None:
    """Set `nlai` more of the account aside for a root request; the caller has checked that it is there."""
    r = request_at(S, request)
    a = account_at(S, r.account)
    faucet = min(nlai, a.faucet_free_nlai)
    purchased = nlai - faucet
    a.faucet_free_nlai -= faucet
    a.faucet_held_nlai += faucet
    a.free_nlai -= purchased
    a.held_nlai += purchased
    r.hold_faucet_nlai += faucet
    r.hold_nlai += purchased


@jit
def reserve(S: Handle, leg: int, nlai: int) -> None:
    """Commit `nlai` of the root's reservation to `leg`, holding more of the account if the reservation is short."""
    root = root_of(S, leg_at(S, leg).request)
    r = request_at(S, root)
    short = r.committed_nlai + nlai - r.hold_nlai - r.hold_faucet_nlai
    if short > 0:
        hold(S, root, short)
    r.committed_nlai += nlai
    leg_at(S, leg).reserved_nlai = nlai


@jit
def charge(S: Handle, leg: int, nlai: int) -> None:
    """Take `nlai` ≤ the leg's reservation for the leg's node and let go of the rest of the commitment."""
    le = leg_at(S, leg)
    root = root_of(S, le.request)
    r = request_at(S, root)
    r.committed_nlai -= le.reserved_nlai
    le.charged_nlai = nlai
    if nlai == 0:
        return
    faucet = min(nlai, r.hold_faucet_nlai)
    purchased = nlai - faucet
    r.hold_faucet_nlai -= faucet
    r.hold_nlai -= purchased
    r.charged_nlai += nlai
    a = account_at(S, r.account)
    a.faucet_held_nlai -= faucet
    a.faucet_debit_nlai += faucet
    a.held_nlai -= purchased
    a.debit_nlai += purchased
    node = offer_at(S, le.offer).node
    owed = gross_at(S, (r.account // params(S).chunk_users) * rows(S, NODES) + node)
    owed.nlai += purchased
    owed.faucet_nlai += faucet
    node_at(S, node).gross_nlai += nlai
    fold(S, r.account)
    fold(S, node)
    fold(S, purchased)
    fold(S, faucet)


@jit
def release(S: Handle, request: int) -> None:
    """Give what is left of a root's reservation back to its account."""
    r = request_at(S, request)
    a = account_at(S, r.account)
    a.held_nlai -= r.hold_nlai
    a.free_nlai += r.hold_nlai
    a.faucet_held_nlai -= r.hold_faucet_nlai
    a.faucet_free_nlai += r.hold_faucet_nlai
    r.hold_nlai = 0
    r.hold_faucet_nlai = 0


@jit
def submit_chunk(S: Handle, chunk: int, epoch: int) -> bool:
    """Move a chunk's debits into a batch keyed by `epoch`; False if there is nothing to send or one is under way."""
    k = chunk_at(S, chunk)
    if k.pending:
        return False
    users = params(S).chunk_users
    total = 0
    for i in range(chunk * users, min((chunk + 1) * users, rows(S, ACCOUNTS))):
        a = account_at(S, i)
        total += a.debit_nlai + a.faucet_debit_nlai
        a.unsettled_nlai, a.debit_nlai = a.debit_nlai, 0
        a.faucet_unsettled_nlai, a.faucet_debit_nlai = a.faucet_debit_nlai, 0
    if total == 0:
        return False
    for node in range(rows(S, NODES)):
        owed = gross_at(S, chunk * rows(S, NODES) + node)
        owed.unsettled_nlai, owed.nlai = owed.nlai, 0
        owed.faucet_unsettled_nlai, owed.faucet_nlai = owed.faucet_nlai, 0
    k.pending, k.failed, k.epoch = 1, 0, epoch
    fold(S, chunk)
    fold(S, epoch)
    fold(S, total)
    return True


@jit
def skip_debit(S: Handle, account: int) -> None:
    """The chain skipped this account's entry: it goes back among the debits, to be sent with the next batch."""
    a = account_at(S, account)
    a.debit_nlai += a.unsettled_nlai
    a.faucet_debit_nlai += a.faucet_unsettled_nlai
    a.unsettled_nlai, a.faucet_unsettled_nlai = 0, 0


@jit
def confirm_chunk(S: Handle, chunk: int) -> None:
    """The chain has settled the chunk: what is still unsettled after the skips is spent, and paid to the nodes.

    If debits were skipped, the chain has paid each node its gross scaled by applied/claimed, rounded down (the treasury has
    what rounding left). The rest of it is sent again, worth just as much as the skipped debits.
    """
    users = params(S).chunk_users
    applied, faucet_applied = 0, 0
    for i in range(chunk * users, min((chunk + 1) * users, rows(S, ACCOUNTS))):
        a = account_at(S, i)
        applied += a.unsettled_nlai
        faucet_applied += a.faucet_unsettled_nlai
        a.spent_nlai += a.unsettled_nlai
        a.faucet_spent_nlai += a.faucet_unsettled_nlai
        a.unsettled_nlai, a.faucet_unsettled_nlai = 0, 0
    fold(S, chunk)
    fold(S, applied)
    fold(S, faucet_applied)
    claimed, faucet_claimed = 0, 0
    for node in range(rows(S, NODES)):
        owed = gross_at(S, chunk * rows(S, NODES) + node)
        claimed += owed.unsettled_nlai
        faucet_claimed += owed.faucet_unsettled_nlai
    upto, faucet_upto, shared, faucet_shared = 0, 0, 0, 0
    for node in range(rows(S, NODES)):
        owed, n = gross_at(S, chunk * rows(S, NODES) + node), node_at(S, node)
        n.settled_nlai += scale(owed.unsettled_nlai, applied, claimed)
        n.settled_faucet_nlai += scale(owed.faucet_unsettled_nlai, faucet_applied, faucet_claimed)
        upto += owed.unsettled_nlai
        faucet_upto += owed.faucet_unsettled_nlai
        # What the nodes up to this one share of the applied debits, so that the rest adds up to the skipped ones.
        share, faucet_share = scale(upto, applied, claimed), scale(faucet_upto, faucet_applied, faucet_claimed)
        owed.nlai += owed.unsettled_nlai - (share - shared)
        owed.faucet_nlai += owed.faucet_unsettled_nlai - (faucet_share - faucet_shared)
        shared, faucet_shared = share, faucet_share
        owed.unsettled_nlai, owed.faucet_unsettled_nlai = 0, 0
    chunk_at(S, chunk).pending = 0
