"""What leaves a user's escrow other than by batch: the shadow of the rules for vouchers, session keys and withdrawals.

They are those of `contracts/src/UserRegistry.sol`, to the nanoLAI; what of a voucher is due is `lattice_core.promises`, and
batches are `lattice_core.split`.
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


def payment(balance: Parts, nlai: int) -> Parts:
    """What a voucher of which `nlai` are due takes of a balance: faucet credit first, and at most what there is."""
    faucet = min(nlai, balance.faucet_nlai)
    return Parts(min(nlai - faucet, balance.purchased_nlai), faucet)


def covers(key: SessionKey, nlai: int, nexus: int, kind: int, epoch_end_s: int) -> bool:
    """Whether the key may promise `nlai` more to a node of that kind, for an epoch that ends then."""
    in_scope = key.nexus == nexus and key.kinds >> kind & 1 == 1
    return epoch_end_s <= key.expiry_s and in_scope and nlai <= key.cap_nlai - key.used_nlai


def used(key: SessionKey, nlai: int) -> SessionKey:
    """The key once a voucher that promises `nlai` more was presented, whether or not its user can ever pay that."""
    return key._replace(used_nlai=key.used_nlai + nlai)


def may_become(key: SessionKey, new: SessionKey) -> bool:
    """Whether the owner may set `new` for what stands: nothing is taken from a key, as nodes count on what they were shown."""
    narrower = new.cap_nlai < key.cap_nlai or new.expiry_s < key.expiry_s or key.kinds & ~new.kinds or new.nexus != key.nexus
    return key.expiry_s == 0 or not narrower


def revoked(key: SessionKey, epoch_end_s: int) -> SessionKey:
    """The key as it stands once revoked in the epoch that ends then: what it signed until then stays good."""
    return key._replace(expiry_s=min(key.expiry_s, epoch_end_s))


def may_ask(purchased_nlai: int, nlai: int) -> bool:
    """Whether a user with so much purchased credit may ask to have `nlai` back: not what is yet to be paid in."""
    return nlai <= purchased_nlai


def withdrawal_nlai(purchased_nlai: int, asked_nlai: int, closed_s: int, now_s: int) -> int:
    """What a withdrawal pays now: nothing until the epoch in which it was asked for is closed, as vouchers may still take it.

    Afterwards as much as was asked for, or what is left of it. Faucet credit can only be spent.
    """
    return min(purchased_nlai, asked_nlai) if now_s >= closed_s else 0
