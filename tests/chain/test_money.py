"""INV-1, 10, 11 and 14 on the chain: whatever is tried in whatever order, no nanoLAI appears, vanishes or is paid twice.

The machine (`tests/chain/machine`) predicts what each call does, to the event or to the error and its arguments. Whatever the
chain does otherwise is a failure, and so is any sum that does not add up after a step.
"""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lattice_core.chain.pyevm import PyEvm
from tests.chain.machine.actions import drawn
from tests.chain.machine.draw import Draw
from tests.chain.machine.fuzz import fuzz
from tests.chain.machine.world import World

WORLD = World(PyEvm(history=False))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=20, max_size=60))
@settings(max_examples=15, phases=[Phase.generate])  # `make fuzz` shrinks, in less time
def test_inv_1_10_11_14_every_step_does_what_the_model_says_and_every_sum_adds_up(draws: list[int]) -> None:
    WORLD.reset()
    for draw in draws:
        WORLD.do(drawn(WORLD, Draw(draw))[1])
    WORLD.check()


@pytest.mark.parametrize("seed", range(4))
def test_a_longer_history_adds_up_and_can_be_rebuilt_from_its_logs(seed: int) -> None:
    failure = fuzz("revm", f"short {seed}", 1_000)
    assert failure is None, f"{failure.steps[-1]}: {failure.wrong}"


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(4))
def test_twenty_thousand_steps_add_up_and_can_be_rebuilt_from_their_logs(seed: int) -> None:
    failure = fuzz("revm", f"thorough {seed}", 5_000)
    assert failure is None, f"{failure.steps[-1]}: {failure.wrong}"
