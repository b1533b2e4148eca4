"""What misconduct costs: the shadow of `contracts/src/Slashing.sol` and of `NodeRegistry.slash`, to the nanoLAI."""

from typing import NamedTuple

from lattice_core.units import PPM


class Stake(NamedTuple):
    """What of a node can be slashed, in nanoLAI."""

    bond_nlai: int
    thawing_nlai: int


class Slash(NamedTuple):
    """What a slash does, in nanoLAI: the stake that it leaves, and where the rest went."""

    left: Stake
    reporter_nlai: int
    burned_nlai: int


def equivocation_nlai(stake: Stake, equivocation_ppm: int) -> int:
    """What two different signed answers to one request cost."""
    return sum(stake) * equivocation_ppm // PPM


def largest_proposal_nlai(stake: Stake, proposed_nlai: int, proposal_ppm: int) -> int:
    """The most that a further proposal may take while others would take `proposed_nlai`.

    Those may be more than the terms allow by now, after a slash or a change of the terms; then it is 0.
    """
    return max(0, sum(stake) * proposal_ppm // PPM - proposed_nlai)


def slash(stake: Stake, nlai: int, reporter_ppm: int) -> Slash:
    """Take up to `nlai`, of the bond before what thaws; the reporter has its share, rounded down, and the rest burns."""
    of_bond = min(nlai, stake.bond_nlai)
    of_thawing = min(nlai - of_bond, stake.thawing_nlai)
    taken = of_bond + of_thawing
    reporter = taken * reporter_ppm // PPM
    return Slash(Stake(stake.bond_nlai - of_bond, stake.thawing_nlai - of_thawing), reporter, taken - reporter)
