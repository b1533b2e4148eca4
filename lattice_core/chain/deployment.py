"""Putting Lattice's contracts on a chain: one script for simulation, live networks and the command line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lattice_core.chain.artifacts import artifact
from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.book import FAUCET, REGISTRAR, AddressBook
from lattice_core.chain.contracts.clock import EpochClock
from lattice_core.chain.contracts.contract import Contract, to_wei
from lattice_core.chain.contracts.nodes import Nodes, NodeTerms
from lattice_core.chain.contracts.slashing import Slashing, SlashTerms
from lattice_core.chain.contracts.status import Status
from lattice_core.chain.contracts.token import Token
from lattice_core.chain.contracts.tokenomics import BonusTerms, Tokenomics
from lattice_core.chain.contracts.users import Users
from lattice_core.chain.port import Chain
from lattice_core.split import Rates

FORMAT = "lattice-address-book"


class Roles(NamedTuple):
    """Who may do what. `deployer` sends what `deploy` does and keeps no role, `owner` governs, `registrar` binds identities to
    accounts, `faucet` grants credit, and each Nexus has an oracle.
    """

    deployer: bytes
    owner: bytes
    registrar: bytes
    faucet: bytes
    oracles: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a network starts with; `holder` receives the supply. Epoch 0 begins with the block of the deployment."""

    roles: Roles
    holder: bytes
    supply_nlai: int
    cap_nlai: int
    epoch_s: int
    grace_epochs: int
    collection_epochs: int
    rates: Rates
    nodes: NodeTerms
    bonus: BonusTerms
    slashing: SlashTerms
    status_window_s: int


def deploy(chain: Chain, genesis: Genesis) -> Network:
    """Deploy and wire the contracts. Raises Reverted."""
    g, roles = genesis, genesis.roles
    deployer = roles.deployer
    book = AddressBook.deploy(chain, deployer, deployer)
    at = book.address
    contracts: tuple[Contract, ...] = (
        Token.deploy(chain, deployer, at, g.holder, to_wei(g.supply_nlai), to_wei(g.cap_nlai)),
        EpochClock.deploy(chain, deployer, chain.block().timestamp_s, g.epoch_s, g.grace_epochs, g.collection_epochs),
        Users.deploy(chain, deployer, at),
        Nodes.deploy(chain, deployer, at, tuple(g.nodes)),
        Status.deploy(chain, deployer, at, g.status_window_s),
        Tokenomics.deploy(chain, deployer, at, tuple(g.rates), tuple(g.bonus)),
        Slashing.deploy(chain, deployer, at, tuple(g.slashing)),
    )
    for contract in contracts:
        book.set(deployer, contract.NAME, contract.address).raise_for_revert()
    for role, who in ((REGISTRAR, roles.registrar), (FAUCET, roles.faucet)):
        book.set_role(deployer, role, who).raise_for_revert()
    for nexus, oracle in sorted(roles.oracles.items()):
        book.set_oracle(deployer, nexus, oracle).raise_for_revert()
    book.transfer_ownership(deployer, roles.owner).raise_for_revert()
    return Network(chain, at)


class Listing(NamedTuple):
    """An address book as a file holds it: a deployed network, and who has which role in it."""

    chain_id: int
    book: bytes
    contracts: Mapping[str, bytes]
    roles: Roles

    @classmethod
    def of(cls, network: Network, roles: Roles) -> "Listing":
        """A network's."""
        contracts = {contract.NAME: contract.address for contract in network.contracts()[1:]}
        return cls(network.chain.chain_id, network.book.address, contracts, roles)

    def text(self) -> str:
        """As JSON, addresses in hex."""
        roles = {role: _hex(who) for role, who in self.roles._asdict().items() if role != "oracles"}
        document = {
            "format": FORMAT,
            "version": 1,
            "chain_id": self.chain_id,
            "book": _hex(self.book),
            "contracts": {name: _hex(address) for name, address in self.contracts.items()},
            "roles": {**roles, "oracles": {str(nexus): _hex(oracle) for nexus, oracle in self.roles.oracles.items()}},
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def read(cls, text: str, source: str) -> "Listing":
        """From JSON. Raises ValueError, which names `source` and what must be there."""
        try:
            document = json.loads(text)
            found = document["format"], document["version"]
            if found != (FORMAT, 1):
                raise ValueError(f"{source}: format and version must be {FORMAT} 1, not {found[0]} {found[1]}")
            oracles = {int(nexus): _address(oracle) for nexus, oracle in document["roles"].pop("oracles").items()}
            roles = Roles(oracles=oracles, **{role: _address(who) for role, who in document["roles"].items()})
            contracts = {name: _address(address) for name, address in document["contracts"].items()}
            return cls(int(document["chain_id"]), _address(document["book"]), contracts, roles)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{source}: must be an address book, as `lattice contracts deploy` writes it") from error


def faults(chain: Chain, listing: Listing) -> Iterator[str]:
    """What of a listing is not so on the chain: code, wiring and roles, a line each; none of a sound deployment."""
    if chain.chain_id != listing.chain_id:
        yield f"chain: must be {listing.chain_id}, not {chain.chain_id}"
        return
    for name, address in {AddressBook.NAME: listing.book, **listing.contracts}.items():
        code = chain.code(address)
        if not artifact(name).matches(code):
            held = "other code" if code else "no code"
            yield f"{name}: {_hex(address)} holds {held} than the {name} that this version of lattice ships"
            return
    network, roles = Network(chain, listing.book), listing.roles
    for contract in network.contracts()[1:]:
        listed = listing.contracts.get(contract.NAME)
        if contract.address != listed:
            yield f"{contract.NAME}: the address book says {_hex(contract.address)}, not {_hex(listed or b'')}"
        elif "book" in contract.abi.functions and contract.book() != listing.book:
            yield f"{contract.NAME}: is wired to the address book {_hex(contract.book())}, not {_hex(listing.book)}"
    holders = {
        "owner": (network.book.owner(), roles.owner),
        "registrar": (network.book.holder_of(REGISTRAR), roles.registrar),
        "faucet": (network.book.holder_of(FAUCET), roles.faucet),
        **{f"oracle of Nexus {n}": (network.book.oracle_of(n), oracle) for n, oracle in roles.oracles.items()},
    }
    for role, (found, expected) in holders.items():
        if found != expected:
            yield f"{role}: is {_hex(found)}, not {_hex(expected)}"
        if found == roles.deployer:
            yield f"{role}: is the deployer, who must keep no role"
    if network.token.balance_wei(roles.deployer):
        yield "deployer: must hold no LAI"


def _hex(value: bytes) -> str:
    return f"0x{value.hex()}"


def _address(text: str) -> bytes:
    address = bytes.fromhex(text.removeprefix("0x"))
    if len(address) != 20:
        raise ValueError(f"an address has 20 bytes, unlike {text}")
    return address
