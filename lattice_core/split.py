"""How fees become claims: the shadow, to the nanoLAI, of the contracts' split and of what `Tokenomics.settle` does to a chunk.

A gross fee is cut in the order burn, treasury, auditors, delegators, and the operator takes the rest; each cut is
⌈rate · rest⌉ of what the earlier cuts left (order from The Graph's GraphPayments, treasury ceiling from Livepeer).
Amounts are int64 nanoLAI between 0 and 2⁶³ − 1 and no intermediate product exceeds that.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from numpy.typing import NDArray

from lattice_core.jit import jit
from lattice_core.units import PPM

if TYPE_CHECKING:
    from lattice_core.config import Config

type Ints = NDArray[Any]
"""A one-dimensional int64 array."""


class Rates(NamedTuple):
    """Shares in parts per million, at most a million each, of what the earlier cuts left."""

    burn_ppm: int
    treasury_ppm: int
    auditors_ppm: int
    delegators_ppm: int
    treasury_ceiling_nlai: int
    """A treasury that may claim this much already gets no further share."""

    @classmethod
    def of(cls, config: "Config") -> Self:
        """Those of a config."""
        s = config.economics.split
        return cls(s.burn_ppm, s.treasury_ppm, s.auditors_ppm, s.delegators_ppm, s.treasury_ceiling_nlai)


class Cuts(NamedTuple):
    """The parts of a gross fee, or of many, in nanoLAI."""

    burned_nlai: int
    treasury_nlai: int
    auditors_nlai: int
    delegators_nlai: int
    operators_nlai: int


class Parts(NamedTuple):
    """An amount by the credit that paid for it, in nanoLAI."""

    purchased_nlai: int
    faucet_nlai: int


@jit
def share(rest_nlai: int, rate_ppm: int) -> int:
    """⌈rate · rest⌉ without the product, which could pass 2⁶³."""
    return rest_nlai // PPM * rate_ppm + (rest_nlai % PPM * rate_ppm + PPM - 1) // PPM


@jit
def split(gross_nlai: int, rates: Rates) -> Cuts:
    """The parts of one gross fee."""
    burned = share(gross_nlai, rates.burn_ppm)
    rest = gross_nlai - burned
    treasury = share(rest, rates.treasury_ppm)
    rest -= treasury
    auditors = share(rest, rates.auditors_ppm)
    rest -= auditors
    delegators = share(rest, rates.delegators_ppm)
    return Cuts(burned, treasury, auditors, delegators, rest - delegators)


@jit
def below_ceiling(rates: Rates, treasury_nlai: int) -> Rates:
    """The rates in force while the treasury may claim `treasury_nlai`; they hold for a whole chunk."""
    treasury_ppm = 0 if treasury_nlai >= rates.treasury_ceiling_nlai else rates.treasury_ppm
    return Rates(rates.burn_ppm, treasury_ppm, rates.auditors_ppm, rates.delegators_ppm, rates.treasury_ceiling_nlai)


@jit
def scale(gross_nlai: int, applied_nlai: int, claimed_nlai: int) -> int:
    """⌊gross · applied / claimed⌋ for applied ≤ claimed, by long multiplication, since the product needs 126 bits."""
    if applied_nlai == claimed_nlai:
        return gross_nlai
    quotient = 0
    remainder = 0
    for bit in range(62, -1, -1):
        quotient *= 2
        if remainder >= claimed_nlai - remainder:
            remainder -= claimed_nlai - remainder
            quotient += 1
        else:
            remainder *= 2
        if (gross_nlai >> bit) & 1:
            if remainder >= claimed_nlai - applied_nlai:
                remainder -= claimed_nlai - applied_nlai
                quotient += 1
            else:
                remainder += applied_nlai
    return quotient


@jit
def debit(
    users: Ints, purchased_nlai: Ints, faucet_nlai: Ints, balance_purchased_nlai: Ints, balance_faucet_nlai: Ints, skipped: Ints
) -> tuple[Parts, Parts]:
    """Take each user's debit from its balances, indexed by user id, or mark its row in `skipped` if one is too small or the
    debit is nothing: who owes nothing has paid for nothing.

    Returns what was claimed and what was applied.
    """
    claimed_purchased = claimed_faucet = applied_purchased = applied_faucet = 0
    for row in range(len(users)):
        user, purchased, faucet = users[row], purchased_nlai[row], faucet_nlai[row]
        claimed_purchased += purchased
        claimed_faucet += faucet
        known = user < len(balance_purchased_nlai)
        owes = purchased > 0 or faucet > 0
        covered = known and purchased <= balance_purchased_nlai[user] and faucet <= balance_faucet_nlai[user]
        skipped[row] = not (owes and covered)
        if not skipped[row]:
            balance_purchased_nlai[user] -= purchased
            balance_faucet_nlai[user] -= faucet
            applied_purchased += purchased
            applied_faucet += faucet
    return Parts(claimed_purchased, claimed_faucet), Parts(applied_purchased, applied_faucet)


@jit
def credit(
    nodes: Ints,
    purchased_nlai: Ints,
    faucet_nlai: Ints,
    claimed: Parts,
    applied: Parts,
    rates: Rates,
    operator_nlai: Ints,
    delegators_nlai: Ints,
) -> Cuts:
    """Split each node's gross, scaled to what was applied, and add its parts to the last two arrays, indexed by node id.

    `rates` are those in force (`below_ceiling`). What rounding down and unknown nodes leave over is the treasury's.
    """
    burned = treasury = auditors = delegators = operators = 0
    for row in range(len(nodes)):
        node = nodes[row]
        if node >= len(operator_nlai):
            continue
        for part in range(2):
            if part == 0:
                gross = scale(purchased_nlai[row], applied.purchased_nlai, claimed.purchased_nlai)
            else:
                gross = scale(faucet_nlai[row], applied.faucet_nlai, claimed.faucet_nlai)
            cuts = split(gross, rates)
            burned += cuts.burned_nlai
            treasury += cuts.treasury_nlai
            auditors += cuts.auditors_nlai
            delegators += cuts.delegators_nlai
            operators += cuts.operators_nlai
            operator_nlai[node] += cuts.operators_nlai
            delegators_nlai[node] += cuts.delegators_nlai
    treasury += applied.purchased_nlai + applied.faucet_nlai - burned - treasury - auditors - delegators - operators
    return Cuts(burned, treasury, auditors, delegators, operators)
