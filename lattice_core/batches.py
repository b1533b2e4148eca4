"""The rules for batches: what an epoch's charges become, and what the chain says of them.

A batch holds a chunk's charges of one epoch, and nothing else ever does: the chain settles it, account by account, or leaves
them to the vouchers of that epoch. Until its grace has passed, a batch that failed is sent again under its own key.
"""

from lattice_core.directory import Handle
from lattice_core.jit import jit, rows
from lattice_core.ledger import fold, has_account
from lattice_core.split import scale
from lattice_core.state import (
    ACCOUNTS,
    BATCHES,
    NODES,
    NONE,
    SUBMIT,
    account_at,
    batch_at,
    clock,
    gross_at,
    node_at,
    out_at,
    params,
    unsettled_at,
    unsettled_gross_at,
)
from lattice_core.transition import begin, ignored, out
from lattice_core.units import MAX_SUPPLY_NLAI


@jit
def close_epoch(S: Handle, epoch: int, t_ns: int) -> int:
    """End an epoch: send each chunk's batches that failed, oldest first, and then the debits of this epoch."""
    begin(S, t_ns)
    c, ring = clock(S), params(S).ring
    if epoch != c.epoch:
        return ignored(S)
    c.epoch += 1
    for chunk in range(rows(S, BATCHES) // ring):
        batch = chunk * ring + epoch % ring
        if batch_at(S, batch).pending:
            _lapse(S, batch)
        for earlier in range(epoch - ring + 1, epoch):
            if batch_at(S, chunk * ring + earlier % ring).failed:
                _send(S, chunk * ring + earlier % ring)
        if _fill(S, batch, epoch):
            _send(S, batch)
    return c.outs


@jit
def batch_skipped(S: Handle, chunk: int, epoch: int, account: int, t_ns: int) -> int:
    """The chain skipped one account's entry of a batch that it otherwise settled (told before `batch_confirmed`)."""
    begin(S, t_ns)
    batch = _pending(S, chunk, epoch)
    if batch == NONE or not has_account(S, account) or account // params(S).chunk_users != chunk:
        return ignored(S)
    _skip(S, batch, account)
    fold(S, account)
    return 0


@jit
def batch_confirmed(S: Handle, chunk: int, epoch: int, t_ns: int) -> int:
    """The chain settled a batch."""
    begin(S, t_ns)
    batch = _pending(S, chunk, epoch)
    if batch == NONE:
        return ignored(S)
    _settle(S, batch)
    return 0


@jit
def batch_failed(S: Handle, chunk: int, epoch: int, t_ns: int) -> int:
    """The chain did not take a batch; `close_epoch` sends it again under the same key."""
    begin(S, t_ns)
    batch = _pending(S, chunk, epoch)
    if batch == NONE:
        return ignored(S)
    batch_at(S, batch).failed = 1
    return 0


@jit
def batch_lapsed(S: Handle, chunk: int, epoch: int, t_ns: int) -> int:
    """The chain will never take a batch."""
    begin(S, t_ns)
    batch = _pending(S, chunk, epoch)
    if batch == NONE:
        return ignored(S)
    _lapse(S, batch)
    return 0


@jit
def voucher_presented(S: Handle, account: int, nlai: int, t_ns: int) -> int:
    """A voucher waits to be paid: new reservations leave that much, so that it never takes what a batch will claim."""
    begin(S, t_ns)
    if not has_account(S, account) or not 0 < nlai <= MAX_SUPPLY_NLAI:
        return ignored(S)
    a = account_at(S, account)
    a.promised_nlai = min(a.promised_nlai + nlai, MAX_SUPPLY_NLAI)
    fold(S, account)
    fold(S, nlai)
    return 0


@jit
def voucher_collected(S: Handle, epoch: int, account: int, node: int, nlai: int, faucet_nlai: int, t_ns: int) -> int:
    """The chain paid a node by voucher: out of what the account has overdue, and what it has free if that is too little.

    No voucher is collected before the grace has passed: a batch of its epoch that is still pending has lapsed.
    """
    begin(S, t_ns)
    if not has_account(S, account) or node < 0 or node >= rows(S, NODES) or node_at(S, node).key == 0:
        return ignored(S)
    if not (0 <= nlai <= MAX_SUPPLY_NLAI and 0 <= faucet_nlai <= MAX_SUPPLY_NLAI and epoch < clock(S).epoch):
        return ignored(S)
    batch = _pending(S, account // params(S).chunk_users, epoch)
    if batch != NONE:
        _lapse(S, batch)
    a, n = account_at(S, account), node_at(S, node)
    a.promised_nlai = max(0, a.promised_nlai - nlai - faucet_nlai)
    overdue, faucet_overdue = min(nlai, a.overdue_nlai), min(faucet_nlai, a.faucet_overdue_nlai)
    free, faucet_free = min(nlai - overdue, a.free_nlai), min(faucet_nlai - faucet_overdue, a.faucet_free_nlai)
    a.overdue_nlai -= overdue
    a.faucet_overdue_nlai -= faucet_overdue
    a.free_nlai -= free
    a.faucet_free_nlai -= faucet_free
    a.spent_nlai += overdue + free
    a.faucet_spent_nlai += faucet_overdue + faucet_free
    n.settled_nlai += overdue + free
    n.settled_faucet_nlai += faucet_overdue + faucet_free
    fold(S, account)
    fold(S, node)
    fold(S, nlai)
    fold(S, faucet_nlai)
    return 0


@jit
def _pending(S: Handle, chunk: int, epoch: int) -> int:
    """The row of the pending batch with this key, or NONE."""
    ring = params(S).ring
    if chunk < 0 or chunk >= rows(S, BATCHES) // ring:
        return NONE
    batch = chunk * ring + epoch % ring
    return batch if batch_at(S, batch).pending and batch_at(S, batch).epoch == epoch else NONE


@jit
def _accounts_of(S: Handle, batch: int) -> tuple[int, int]:
    """The first account of a batch's chunk, and one more than the last."""
    users = params(S).chunk_users
    first = batch // params(S).ring * users
    return first, min(first + users, rows(S, ACCOUNTS))


@jit
def _debit_row(S: Handle, batch: int, account: int) -> int:
    """The row of `unsettled` for what the account owes in a batch."""
    ring = params(S).ring
    return account * ring + batch % ring


@jit
def _fill(S: Handle, batch: int, epoch: int) -> bool:
    """Move a chunk's debits into its free batch of `epoch`; False if there are none."""
    total = 0
    first, end = _accounts_of(S, batch)
    for account in range(first, end):
        a, owed = account_at(S, account), unsettled_at(S, _debit_row(S, batch, account))
        owed.nlai, a.debit_nlai = a.debit_nlai, 0
        owed.faucet_nlai, a.faucet_debit_nlai = a.faucet_debit_nlai, 0
        a.unsettled_nlai += owed.nlai
        a.faucet_unsettled_nlai += owed.faucet_nlai
        total += owed.nlai + owed.faucet_nlai
    if total == 0:
        return False
    chunk, nodes = batch // params(S).ring, rows(S, NODES)
    for node in range(nodes):
        gross, claimed = gross_at(S, chunk * nodes + node), unsettled_gross_at(S, batch * nodes + node)
        claimed.nlai, gross.nlai = gross.nlai, 0
        claimed.faucet_nlai, gross.faucet_nlai = gross.faucet_nlai, 0
    b = batch_at(S, batch)
    b.pending, b.epoch = 1, epoch
    fold(S, chunk)
    fold(S, epoch)
    fold(S, total)
    return True


@jit
def _send(S: Handle, batch: int) -> None:
    batch_at(S, batch).failed = 0
    row = out(S, SUBMIT)
    out_at(S, row).request = batch


@jit
def _skip(S: Handle, batch: int, account: int) -> None:
    """An account's entry was not applied: what it owes is left to the vouchers."""
    a, owed = account_at(S, account), unsettled_at(S, _debit_row(S, batch, account))
    a.unsettled_nlai -= owed.nlai
    a.overdue_nlai += owed.nlai
    a.faucet_unsettled_nlai -= owed.faucet_nlai
    a.faucet_overdue_nlai += owed.faucet_nlai
    owed.nlai, owed.faucet_nlai = 0, 0


@jit
def _lapse(S: Handle, batch: int) -> None:
    """No entry of a batch was applied."""
    first, end = _accounts_of(S, batch)
    for account in range(first, end):
        _skip(S, batch, account)
    _settle(S, batch)


@jit
def _settle(S: Handle, batch: int) -> None:
    """What is left of a batch after the skips is spent and paid to the nodes, and its row is free.

    The chain has paid each node its gross scaled by applied/claimed, rounded down; the treasury has what rounding left.
    """
    applied, faucet_applied = 0, 0
    first, end = _accounts_of(S, batch)
    for account in range(first, end):
        a, owed = account_at(S, account), unsettled_at(S, _debit_row(S, batch, account))
        applied += owed.nlai
        faucet_applied += owed.faucet_nlai
        a.unsettled_nlai -= owed.nlai
        a.spent_nlai += owed.nlai
        a.faucet_unsettled_nlai -= owed.faucet_nlai
        a.faucet_spent_nlai += owed.faucet_nlai
        owed.nlai, owed.faucet_nlai = 0, 0
    claimed, faucet_claimed, nodes = 0, 0, rows(S, NODES)
    for node in range(nodes):
        gross = unsettled_gross_at(S, batch * nodes + node)
        claimed += gross.nlai
        faucet_claimed += gross.faucet_nlai
    for node in range(nodes):
        gross, n = unsettled_gross_at(S, batch * nodes + node), node_at(S, node)
        n.settled_nlai += scale(gross.nlai, applied, claimed)
        n.settled_faucet_nlai += scale(gross.faucet_nlai, faucet_applied, faucet_claimed)
        gross.nlai, gross.faucet_nlai = 0, 0
    b = batch_at(S, batch)
    b.pending, b.failed = 0, 0
    fold(S, batch)
    fold(S, b.epoch)
    fold(S, applied)
    fold(S, faucet_applied)
