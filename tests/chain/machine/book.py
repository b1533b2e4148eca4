"""Who is who, as the address book should have it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lattice_core.chain.contracts.contract import name32
from tests.chain.machine.shadow import NOBODY, Refused, Shadow, Tx
from tests.chain.machine.wire import Event, View

if TYPE_CHECKING:
    from tests.chain.machine.model import Model


class Book(Shadow):
    """Roles are kept by their 32 bytes."""

    NAME = "AddressBook"
    owner = NOBODY

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.oracles: dict[int, bytes] = {}
        self.roles: dict[bytes, bytes] = {}

    def apply(self, event: Event) -> None:
        e = event.args
        match event.name:
            case "OracleSet":
                self.oracles[e["nexus"]] = e["oracle"]
            case "RoleSet":
                self.roles[e["role"]] = e["holder"]
            case "OwnershipTransferred":
                self.owner = e["newOwner"]
            case "ContractSet":
                assert name32(next(name for name, at in self.model.addresses.items() if at == e["entry"])) == e["name"]
                self.model.contracts.add(e["entry"])

    def views(self, now_s: int) -> Iterator[View]:
        yield self.view("owner", (), self.owner)
        for nexus, oracle in self.oracles.items():
            yield self.view("oracleOf", (nexus,), oracle)
        for role, holder in self.roles.items():
            yield self.view("holderOf", (role,), holder)
        for name, address in self.model.addresses.items():
            if address in self.model.contracts:
                yield self.view("get", (name32(name),), address)

    def set_oracle(self, tx: Tx, nexus: int, oracle: bytes) -> None:
        self._only_owner(tx)
        self.emit(tx, "OracleSet", nexus=nexus, oracle=oracle)

    def set_role(self, tx: Tx, role: bytes, holder: bytes) -> None:
        self._only_owner(tx)
        self.emit(tx, "RoleSet", role=role, holder=holder)

    def _only_owner(self, tx: Tx) -> None:
        if tx.sender != self.owner:
            raise Refused("OwnableUnauthorizedAccount", account=tx.sender)
