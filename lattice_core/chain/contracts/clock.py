"""The epoch clock: when an epoch ends, until when a batch settles it and until when vouchers are collected."""

from typing import NamedTuple

from lattice_core.chain.contracts.contract import Contract


class Epochs(NamedTuple):
    """How time is cut: epoch 0 begins at `start_s` (Unix seconds); grace and collection are in epochs, together at most 63."""

    start_s: int
    length_s: int
    grace: int
    collection: int

    def end_s(self, epoch: int) -> int:
        """When an epoch is over and its batch may settle it."""
        return self.start_s + (epoch + 1) * self.length_s

    def lapse_s(self, epoch: int) -> int:
        """When its batch may no longer, and its vouchers may be presented; and when those presented in it may be collected."""
        return self.end_s(epoch) + self.grace * self.length_s

    def closed_s(self, epoch: int) -> int:
        """When nothing can be charged for it any more: its last voucher has waited, and then had an epoch to be collected."""
        return self.lapse_s(epoch) + (self.collection + self.grace + 1) * self.length_s


class EpochClock(Contract):
    """The chain's epochs."""

    NAME = "EpochClock"

    def epochs(self) -> Epochs:
        return Epochs(*(int(self._read(name)) for name in ("start", "length", "grace", "collection")))

    def current(self) -> int:
        return int(self._read("current"))

    def settles(self, epoch: int) -> bool:
        return bool(self._read("settles", epoch))

    def lapsed(self, epoch: int) -> bool:
        return bool(self._read("lapsed", epoch))

    def collects(self, epoch: int) -> bool:
        return bool(self._read("collects", epoch))

    def closed(self, epoch: int) -> bool:
        return bool(self._read("closed", epoch))
