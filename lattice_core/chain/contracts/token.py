"""LAI, the ERC-20."""

from lattice_core.chain.contracts.contract import Contract, to_wei
from lattice_core.chain.port import Receipt
from lattice_core.units import NANO as NLAI_WEI


class Token(Contract):
    """LAI. Holders may split a nanoLAI; Lattice's contracts never do."""

    NAME = "LAIToken"

    def transfer(self, sender: bytes, to: bytes, amount_nlai: int) -> Receipt:
        return self._send(sender, "transfer", to, to_wei(amount_nlai))

    def approve(self, sender: bytes, spender: bytes, amount_nlai: int) -> Receipt:
        return self._send(sender, "approve", spender, to_wei(amount_nlai))

    def burn(self, sender: bytes, amount_nlai: int) -> Receipt:
        return self._send(sender, "burn", to_wei(amount_nlai))

    def mint(self, sender: bytes, to: bytes, amount_nlai: int) -> Receipt:
        return self._send(sender, "mint", to, to_wei(amount_nlai))

    def balance_wei(self, address: bytes) -> int:
        return int(self._read("balanceOf", address))

    def allowance_wei(self, owner: bytes, spender: bytes) -> int:
        """What `spender` may still take of the owner's."""
        return int(self._read("allowance", owner, spender))

    def balance_nlai(self, address: bytes) -> int:
        """Whole nanoLAI."""
        return self.balance_wei(address) // NLAI_WEI

    def supply_wei(self) -> int:
        return int(self._read("totalSupply"))

    def supply_nlai(self) -> int:
        """Whole nanoLAI."""
        return self.supply_wei() // NLAI_WEI

    def minted_wei(self) -> int:
        return int(self._read("minted"))

    def burned_wei(self) -> int:
        return int(self._read("burned"))

    def cap_wei(self) -> int:
        return int(self._read("cap"))

    def nonce(self, owner: bytes) -> int:
        """Of the owner's next permit."""
        return int(self._read("nonces", owner))
