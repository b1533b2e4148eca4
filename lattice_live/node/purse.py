"""The vouchers that a node holds: what its payers have signed for, in a file beside its key.

Each line is one voucher, written before the node says that it has it. A later one with more for the same payer and epoch
replaces an earlier one. `lattice node collect` takes them to the chain if no batch ever paid.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lattice_core.chain.keys import recover
from lattice_core.chain.typed_data import digest, domain
from lattice_core.chain.vouchers import TYPE, Signed, Voucher
from lattice_core.units import MAX_SUPPLY_NLAI
from lattice_live.node.identity import Terms

type _Id = Annotated[int, Field(ge=0, lt=2**32)]
type _Address = Annotated[str, Field(pattern=r"\A[0-9a-f]{40}\z")]


class PurseError(ValueError):
    """A voucher that the node does not take, or a file that holds none; one line."""


class Promise(BaseModel):
    """A payer's signed promise to this node; `owner` is whose key signed it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    epoch: _Id
    payer: _Id
    value_nlai: Annotated[int, Field(ge=1, le=MAX_SUPPLY_NLAI)]
    tokens: Annotated[int, Field(ge=0, lt=2**63)]
    receipts_root: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
    owner: _Address
    signature: Annotated[str, Field(pattern=r"\A[0-9a-f]{130}\z")]


class Handed(BaseModel):
    """What a Nexus hands over at an epoch's end. `tokenomics` is the contract that pays vouchers."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    tokenomics: _Address
    promises: Annotated[list[Promise], Field(max_length=10_000)]


class Held(Promise):
    """A promise as the file keeps it: with all that the contract asks for."""

    chain_id: Annotated[int, Field(ge=0, lt=2**63)]
    tokenomics: _Address
    nexus: Annotated[int, Field(ge=0, lt=2**16)]
    node: _Id

    @property
    def key(self) -> tuple[int, int, int, int]:
        """By which the contract knows it."""
        return self.nexus, self.epoch, self.payer, self.node

    @property
    def signed(self) -> Signed:
        """As the contract takes it."""
        root = bytes.fromhex(self.receipts_root)
        return Signed(Voucher(*self.key, self.value_nlai, self.tokens, root), bytes.fromhex(self.signature))

    def check(self) -> None:
        """Raise PurseError unless `owner`'s key signed it for this chain and contract."""
        signed = self.signed
        separator = domain(self.chain_id, bytes.fromhex(self.tokenomics))
        try:
            signer = recover(digest(separator, TYPE, signed.voucher), signed.signature).hex()
        except ValueError as error:
            raise PurseError(f"signature: {error}") from None
        if signer != self.owner:
            raise PurseError(f"signature: 0x{signer}'s, or altered; must be 0x{self.owner}'s")


class Purse:
    """What lies in one file."""

    def __init__(self, file: Path) -> None:
        """Read what is there. Raises PurseError."""
        self.file = file
        self.held: dict[tuple[int, int, int, int], Held] = {}
        """The largest voucher for each (nexus, epoch, payer, node)."""
        if file.exists():
            with _locked(file) as stream:
                self._read(stream.read().decode("utf-8", "replace"))

    def take(self, handed: Handed, terms: Terms) -> int:
        """Keep what a Nexus hands over; how many are new. Raises PurseError if any is not as it must be, and keeps none."""
        fresh: list[Held] = []
        for promise in handed.promises:
            said = promise.model_dump()
            held = Held(**said, chain_id=terms.chain_id, tokenomics=handed.tokenomics, nexus=terms.nexus, node=terms.node)
            before = self.held.get(held.key)
            if before is not None and (before.value_nlai, before.owner) == (held.value_nlai, held.owner):
                continue
            self._check(held, before)
            fresh.append(held)
        if fresh:
            with _locked(self.file) as stream:
                stream.seek(0, os.SEEK_END)
                stream.write("".join(f"{one.model_dump_json()}\n" for one in fresh).encode())
                stream.flush()
                os.fsync(stream.fileno())
        self.held.update({one.key: one for one in fresh})
        return len(fresh)

    def drop(self, keys: Sequence[tuple[int, int, int, int]]) -> None:
        """Forget vouchers that are paid, or never will be."""
        if not keys:
            return
        with _locked(self.file) as stream:
            self._read(stream.read().decode("utf-8", "replace"))  # the node may have got more meanwhile
            for key in keys:
                self.held.pop(key, None)
            stream.seek(0)
            stream.truncate()
            stream.write("".join(f"{one.model_dump_json()}\n" for one in self.held.values()).encode())
            stream.flush()
            os.fsync(stream.fileno())

    def _check(self, held: Held, before: Held | None) -> None:
        for other in self.held.values():
            if (other.chain_id, other.tokenomics, other.nexus) != (held.chain_id, held.tokenomics, held.nexus):
                raise PurseError(f"tokenomics: must be 0x{other.tokenomics} on chain {other.chain_id}, as in {self.file}")
            break
        owner = next((other.owner for other in self.held.values() if other.payer == held.payer), held.owner)
        if owner != held.owner:
            raise PurseError(f"owner: of payer {held.payer} must be 0x{owner}, as before, not 0x{held.owner}")
        if before is not None and held.value_nlai < before.value_nlai:
            raise PurseError(f"value_nlai: must be more than {before.value_nlai}, which payer {held.payer} has signed for")
        held.check()

    def _read(self, text: str) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                held = Held.model_validate_json(line)
            except ValidationError as error:
                if number == text.count("\n") + 1:
                    return  # a last line without its end was never promised
                key = error.errors()[0]["loc"]
                raise PurseError(
                    f"{self.file}: line {number}: must be a voucher: {'.'.join(map(str, key)) or 'JSON'}"
                ) from None
            before = self.held.get(held.key)
            if before is None or held.value_nlai >= before.value_nlai:
                self.held[held.key] = held


@contextmanager
def _locked(file: Path) -> Iterator[Any]:
    """The file, made if it is missing, for nobody else at the same time. Raises PurseError."""
    try:
        with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream
    except OSError as error:
        raise PurseError(f"{file}: {error.strerror}") from error


def purse_of(key: Path) -> Path:
    """Where the vouchers of a node lie whose key is in `key`."""
    return key.with_suffix(".vouchers")


def handed(tokenomics: bytes, promises: Sequence[tuple[Signed, bytes]]) -> Mapping[str, Any]:
    """What a Nexus sends: vouchers with their owners' addresses."""
    rows = [
        {
            "epoch": signed.voucher.epoch,
            "payer": signed.voucher.payer,
            "value_nlai": signed.voucher.value_nlai,
            "tokens": signed.voucher.tokens,
            "receipts_root": signed.voucher.receipts_root.hex(),
            "owner": owner.hex(),
            "signature": signed.signature.hex(),
        }
        for signed, owner in promises
    ]
    return {"tokenomics": tokenomics.hex(), "promises": rows}
