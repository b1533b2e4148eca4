"""Money of a request, off chain: reserve → charge → release.

Faucet credit is spent before purchased credit; the two parts stay apart from the reservation to the batch. Sub-requests draw on
their root's reservation: one payer, one reservation.
"""

import numpy as np

from lattice_core.directory import Handle
from lattice_core.jit import jit, rows
from lattice_core.state import (
    ACCOUNTS,
    NODES,
    NONE,
    RECEIPT,
    account_at,
    clock,
    gross_at,
    leg_at,
    node_at,
    offer_at,
    out_at,
    params,
    request_at,
)
from lattice_core.streams import mix
from lattice_core.transition import out

_A, _C = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xCA5A826395121157)
"""Odd words that tell the places of an entry apart."""


@jit
def fold(S: Handle, word: int | np.uint64) -> None:
    """Fold one integer of a decision or of the ledger into the rolling digest."""
    c = clock(S)
    c.digest_a = mix(c.digest_a, np.uint64(word))
    c.digest_b = mix(c.digest_b ^ c.digest_a, np.uint64(word))


@jit
def fold_entry(S: Handle, a: int, b: int, c: int, d: int) -> None:
    """Fold four integers that belong together: most of the work does not wait for the digest."""
    fold(S, mix(mix(np.uint64(a) * _A, np.uint64(b)), mix(np.uint64(c) * _C, np.uint64(d))))


@jit
def has_account(S: Handle, account: int) -> bool:
    """Whether the chain has registered this account."""
    return 0 <= account < rows(S, ACCOUNTS) and account_at(S, account).known != 0


@jit
def root_of(S: Handle, request: int) -> int:
    """The request whose reservation pays for `request`: its parent, or itself."""
    parent = request_at(S, request).parent
    return request if parent == NONE else parent


@jit
def available_nlai(S: Handle, request: int) -> int:
    """The most that one more leg of `request` may cost: what is held and not committed, and for a root what its account can
    spend.

    A sub-request never reaches past its root's reservation.
    """
    r = request_at(S, root_of(S, request))
    uncommitted = r.hold_nlai + r.hold_faucet_nlai - r.committed_nlai
    if request_at(S, request).parent != NONE:
        return uncommitted
    purchased, faucet = _spendable(S, r.account)
    return uncommitted + purchased + faucet


@jit
def _spendable(S: Handle, account: int) -> tuple[int, int]:
    """What new reservations may take of an account's purchased and faucet credit: what is free and neither withdrawing nor
    promised by a voucher, which the chain pays from faucet credit first.
    """
    a = account_at(S, account)
    promised = max(0, a.promised_nlai - a.overdue_nlai - a.faucet_overdue_nlai)
    of_purchased = max(0, promised - a.faucet_free_nlai)
    return max(0, a.free_nlai - a.withdrawing_nlai - of_purchased), max(0, a.faucet_free_nlai - promised)


@jit
def hold(S: Handle, request: int, nlai: int) -> None:
    """Set `nlai` more of the account aside for a root request; the caller has checked that it is there."""
    r = request_at(S, request)
    a = account_at(S, r.account)
    faucet = min(nlai, _spendable(S, r.account)[1])
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
def gross_row(S: Handle, account: int, node: int) -> int:
    """The row of `gross` for what the account's chunk owes the node."""
    return (account // params(S).chunk_users) * rows(S, NODES) + node


@jit
def charge(S: Handle, leg: int, nlai: int) -> None:
    """Take `nlai` ≤ the leg's reservation for the leg's node, against a receipt, and let go of the rest of the commitment."""
    le = leg_at(S, leg)
    r = request_at(S, root_of(S, le.request))
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
    owed = gross_at(S, gross_row(S, r.account, node))
    owed.nlai += purchased
    owed.faucet_nlai += faucet
    node_at(S, node).gross_nlai += nlai
    row = out(S, RECEIPT)
    o, served = out_at(S, row), request_at(S, le.request)
    o.request, o.leg, o.epoch, o.account, o.node = served.id, le.id, clock(S).epoch, r.account, node
    o.prompt_tok, o.output_tok, o.nlai, o.faucet_nlai = served.unpaid_tok, le.to_tok - le.from_tok, purchased, faucet
    fold_entry(S, r.account, node, purchased, faucet)


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
