"""`make fuzz`: seeded steps, by default on revm; what fails is shrunk, replayed on py-evm, and printed.

python -m tests.chain.machine.fuzz --steps 1000000 --seed 1
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from lattice_core.chain.port import Chain
from lattice_core.chain.pyevm import PyEvm
from lattice_core.chain.revm import Revm
from tests.chain.machine.actions import drawn
from tests.chain.machine.draw import Draw
from tests.chain.machine.world import Step, World

BACKENDS: dict[str, Callable[[], Chain]] = {"revm": Revm, "py-evm": lambda: PyEvm(history=False)}
WORLD_STEPS = 5_000
"""Steps until a new world begins, so that memory and a failing prefix stay small."""

EVERY = 50
"""Steps between two comparisons of all that the contracts can be asked; their sums are compared after each."""

_MOST_REPLAYS = 200


class Failure(NamedTuple):
    """The steps of a world, the last of which is not as it should be, and what is wrong with it."""

    world: str
    steps: list[Step]
    wrong: str


def run(world: World, steps: Iterator[Step] | Sequence[Step], every: int, name: str) -> Failure | None:
    """Take these steps from the beginning; stop at the first that is not as it should be."""
    world.reset()
    try:
        for number, step in enumerate(steps, 1):
            world.do(step)
            if number % every == 0:
                world.check()
        world.check()
        world.check_logs()
    except AssertionError as error:
        return Failure(name, list(world.steps), str(error))
    return None


def chance(world: World, seed: str, steps: int) -> Iterator[Step]:
    """So many steps at random, each in the light of those before it."""
    draw = Draw(seed)
    for _ in range(steps):
        yield drawn(world, draw)[1]


def fuzz(backend: str, seed: str, steps: int) -> Failure | None:
    """A world of its own."""
    world = World(BACKENDS[backend]())
    return run(world, chance(world, seed, steps), EVERY, seed)


def shrunk(failure: Failure, backend: str) -> Failure:
    """A failure that needs fewer steps: whatever can be left out of these is."""
    make = BACKENDS[backend]
    found = run(World(make()), failure.steps, 1, failure.world) or failure
    replays, size = 0, len(found.steps) // 2
    while size:
        at = 0
        while at < len(found.steps) and replays < _MOST_REPLAYS:
            shorter = run(World(make()), found.steps[:at] + found.steps[at + size :], 1, failure.world)
            replays += 1
            if shorter:
                found = shorter
            else:
                at += size
        size //= 2
    return found


def report(failure: Failure, backend: str) -> None:
    least = shrunk(failure, backend)
    print(f"world {failure.world}: step {len(failure.steps)}: {failure.steps[-1]}\n  {failure.wrong}")
    print(f"{len(least.steps)} steps are enough:")
    for step in least.steps:
        print(f"  {step}")
    print(f"  {least.wrong}")
    again = run(World(BACKENDS["py-evm"]()), least.steps, 1, failure.world)
    print(f"on py-evm: {again.wrong if again else 'all is as it should be'}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chain.machine.fuzz", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", choices=list(BACKENDS), default="revm")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    sizes = [min(WORLD_STEPS, args.steps - first) for first in range(0, args.steps, WORLD_STEPS)]
    seeds = [f"{args.seed}.{number}" for number in range(len(sizes))]
    with ProcessPoolExecutor(args.jobs) as pool:
        done = 0
        for failure, size in zip(pool.map(fuzz, [args.backend] * len(sizes), seeds, sizes), sizes, strict=True):
            if failure:
                pool.shutdown(wait=False, cancel_futures=True)
                report(failure, args.backend)
                return 1
            done += size
            print(f"\r{done:,} of {args.steps:,} steps", end="", flush=True)
    print(": no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
