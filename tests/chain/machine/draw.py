"""Chance, as the actions use it: mostly sensible, now and then at a bound or beyond it."""

from collections.abc import Sequence
from random import Random

HUGE = 2**61


class Draw(Random):
    """Seeded."""

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick[T](self, values: Sequence[T]) -> T:
        return values[int(self.random() * len(values))]

    def id(self, count: int) -> int:
        """One of so many ids; now and then the first that there is not, or the largest."""
        if self.chance(0.03) or not count:
            return self.pick((count, 2**32 - 1))
        return self.randrange(count)

    def ids(self, count: int, most: int) -> list[int]:
        """A few different ones, now and then one of them twice."""
        found = list(dict.fromkeys(self.id(count) for _ in range(self.randint(1, most))))
        return [*found, found[0]] if self.chance(0.05) else found

    def amount(self, most: int) -> int:
        """Up to `most`, and now and then nothing, next to nothing, all, or more than there is."""
        kind = self.random()
        if kind < 0.04:
            return 0
        if kind < 0.10:
            return self.randint(1, 3)
        if kind < 0.16:
            return self.pick((most, most + 1, HUGE))
        return self.randint(0, max(1, most // self.pick((1, 4, 50))))

    def bytes32(self) -> bytes:
        return self.randbytes(32)
