"""A config's network as the chain starts it: who has which role, and the terms of every contract."""

from lattice_core.chain.contracts.nodes import NodeTerms
from lattice_core.chain.contracts.slashing import SlashTerms
from lattice_core.chain.contracts.tokenomics import BonusTerms
from lattice_core.chain.deployment import Genesis, Roles
from lattice_core.chain.keys import Key, key_of
from lattice_core.config import Config
from lattice_core.split import Rates
from lattice_core.streams import entity_key
from lattice_core.units import MAX_SUPPLY_NLAI, NANO

ROLES = ("deployer", "holder", "owner", "registrar", "faucet", "oracle")
"""Who deploys, holds the genesis supply, governs, binds identities, grants credit, and settles for the Nexus."""


def role_key(role: str, secret: bytes = b"") -> Key:
    """The key of a role, one of ROLES."""
    return key_of(entity_key(role, 0), secret)


def genesis_of(config: Config, nexus: int = 0, secret: bytes = b"") -> Genesis:
    """What the config says of the contracts, with the roles' addresses."""
    e, who = config.economics, {role: role_key(role, secret).address for role in ROLES}
    return Genesis(
        roles=Roles(who["deployer"], who["owner"], who["registrar"], who["faucet"], {nexus: who["oracle"]}),
        holder=who["holder"],
        supply_nlai=e.supply.genesis_nlai,
        cap_nlai=MAX_SUPPLY_NLAI,
        epoch_s=to_seconds(config.chain.epoch_ns),
        grace_epochs=config.chain.grace_epochs,
        collection_epochs=config.chain.collection_epochs,
        rates=Rates.of(config),
        nodes=NodeTerms(
            e.registration.floor_nlai,
            e.registration.rise_ppm,
            to_seconds(e.registration.half_life_ns),
            to_seconds(e.bonds.thaw_ns),
        ),
        bonus=BonusTerms(e.bonus.per_day_nlai, e.bonus.returned_ppm, to_seconds(e.bonus.window_ns)),
        slashing=SlashTerms(
            e.slashing.equivocation_ppm, e.slashing.proposal_ppm, e.slashing.reporter_ppm, to_seconds(e.slashing.appeal_ns)
        ),
        status_window_s=to_seconds(config.chain.challenge_ns),
    )


def to_seconds(ns: int) -> int:
    """A duration as the contracts take it: whole seconds, rounded up."""
    return -(-ns // NANO)
