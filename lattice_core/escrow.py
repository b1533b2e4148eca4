"""What leaves a user's escrow other than by batch: the shadow of the rules for vouchers, session keys and withdrawals.

They are those of `contracts/src/UserRegistry.sol` and `Vouchers.sol`, to the nanoLAI; batches are `lattice_core.split`.
"""

from typing import NamedTuple

from lattice_core.split import Parts


class SessionKey(NamedTuple):
    """What a key may spend for a user: at one Nexus, at nodes of the kinds whose bits are set, in epochs that end by then.

    All is 0 for a key that was never set.
    """

    cap_nlai: int
    used_nlai: int
    nexus: int
    kinds: int
    expiry_s: int


def due_nlai(value_nlai: int, collected_nlai: int) -> int:
    """What of a cumulative voucher has not been paid; one that promises no more than was paid is worth nothing."""
    return max(0, value_nlai - collected_nlai)


def payment(balance: Parts, nlai: int) -> Parts:
    """What a voucher of which `nlai` are due takes of a balance: faucet credit first, and at most what there is."""
    faucet = min(nlai, balance.faucet_nlai)
    return Parts(min(nlai - faucet, balance.purchased_nlai), faucet)


def covers(key: SessionKey, paid: Parts, nexus: int, kind: int, epoch_end_s: int) -> bool:
    """Whether a voucher that the key signed may take `paid` for a node of that kind and an epoch that ends then."""
    in_scope = key.nexus == nexus and key.kinds >> kind & 1 == 1
    return epoch_end_s <= key.expiry_s and in_scope and sum(paid) <= key.cap_nlai - key.used_nlai


def may_become(key: SessionKey, new: SessionKey) -> bool:
    """Whether the owner may set `new` for what stands: nothing is taken from a key, as nodes count on what they were shown."""
    narrower = new.cap_nlai < key.cap_nlai or new.expiry_s < key.expiry_s or key.kinds & ~new.kinds or new.nexus != key.nexus
    return key.expiry_s == 0 or not narrower


def revoked(key: SessionKey, epoch_end_s: int) -> SessionKey:
    """The key as it stands once revoked in the epoch that ends then: what it signed until then stays good."""
    return key._replace(expiry_s=min(key.expiry_s, epoch_end_s))


def withdrawal_nlai(purchased_nlai: int, asked_nlai: int, closed_s: int, now_s: int) -> int:
    """What a withdrawal pays now: nothing until the epoch in which it was asked for is closed, as vouchers may still charge it.

    Afterwards as much as was asked for, or what is left of it. Faucet credit can only be spent.
    """
    return min(purchased_nlai, asked_nlai) if now_s >= closed_s else 0
