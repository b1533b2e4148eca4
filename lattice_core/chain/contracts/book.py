"""The address book: who is who."""

from lattice_core.chain.contracts.contract import Contract, name32
from lattice_core.chain.port import Receipt

REGISTRAR, FAUCET = "Registrar", "Faucet"
"""Roles: who binds identities to accounts, and who grants faucet credit."""


class AddressBook(Contract):
    """Where the contracts live, who has a role, each Nexus's oracle, and the one owner of them all."""

    NAME = "AddressBook"

    def set(self, sender: bytes, name: str, address: bytes) -> Receipt:
        return self._send(sender, "set", name32(name), address)

    def set_role(self, sender: bytes, role: str, holder: bytes) -> Receipt:
        return self._send(sender, "setRole", name32(role), holder)

    def set_oracle(self, sender: bytes, nexus: int, oracle: bytes) -> Receipt:
        return self._send(sender, "setOracle", nexus, oracle)

    def transfer_ownership(self, sender: bytes, owner: bytes) -> Receipt:
        return self._send(sender, "transferOwnership", owner)

    def get(self, name: str) -> bytes:
        address: bytes = self._read("get", name32(name))
        return address

    def holder_of(self, role: str) -> bytes:
        holder: bytes = self._read("holderOf", name32(role))
        return holder

    def oracle_of(self, nexus: int) -> bytes:
        oracle: bytes = self._read("oracleOf", nexus)
        return oracle

    def owner(self) -> bytes:
        owner: bytes = self._read("owner")
        return owner
