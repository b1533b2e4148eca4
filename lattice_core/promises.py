"""What payers have promised nodes by voucher, and what of it has waited: the shadow of `contracts/src/Vouchers.sol`.

What is presented waits until no batch of that epoch can settle any more, so that no batch finds the escrow emptied before it.
"""

from collections.abc import Callable
from typing import NamedTuple


class Promise(NamedTuple):
    """What was presented for a (nexus, epoch, payer, node), in nanoLAI: `ripe_nlai` of `value_nlai` has waited, up to
    `first_nlai` waits since epoch `since` and the rest since `later`. So a larger voucher never holds up the one before it.
    """

    value_nlai: int = 0
    ripe_nlai: int = 0
    first_nlai: int = 0
    paid_nlai: int = 0
    since: int = 0
    later: int = 0


def ripened(promise: Promise, lapsed: Callable[[int], bool]) -> Promise:
    """The promise now; `lapsed` tells of an epoch whether no batch may settle it any more."""
    p = promise
    for _ in range(2):
        if p.first_nlai > p.ripe_nlai and lapsed(p.since):
            p = p._replace(ripe_nlai=p.first_nlai, first_nlai=p.value_nlai, since=p.later)
    return p


def presented(promise: Promise, value_nlai: int, epoch: int, lapsed: Callable[[int], bool]) -> Promise:
    """The promise after a larger voucher was presented in `epoch`."""
    p = ripened(promise, lapsed)
    if p.ripe_nlai == p.value_nlai:
        return p._replace(value_nlai=value_nlai, first_nlai=value_nlai, since=epoch)
    return p._replace(value_nlai=value_nlai, later=epoch)


def due_nlai(promise: Promise, lapsed: Callable[[int], bool]) -> int:
    """What can be collected now."""
    return ripened(promise, lapsed).ripe_nlai - promise.paid_nlai
