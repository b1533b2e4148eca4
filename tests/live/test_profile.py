"""What a node measures of itself is what it was, and a config reads it."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.config import parse, revise
from lattice_live.node.engine import Engine
from lattice_live.node.profile import document, fit, measure
from tests.live.networks import LOCAL, tiny

seconds = st.floats(1e-4, 1.0)


@given(seconds, seconds)
def test_a_line_that_is_one_is_found(a_s: float, b_s: float) -> None:
    sizes = [1, 2, 4, 8]
    line = fit(sizes, [a_s + b_s * n for n in sizes])
    assert line.a_s == pytest.approx(a_s, rel=1e-6, abs=1e-9)
    assert line.b_s == pytest.approx(b_s, rel=1e-6, abs=1e-9)
    assert line.misfit < 1e-6


@given(st.lists(seconds, min_size=1, max_size=6))
def test_no_part_of_a_line_is_negative_and_the_misfit_is_its_largest(step_s: list[float]) -> None:
    sizes = list(range(1, len(step_s) + 1))
    line = fit(sizes, step_s)
    assert line.a_s >= 0.0
    assert line.b_s >= 0.0
    off = [abs(line.a_s + line.b_s * n - y) / y for n, y in zip(sizes, step_s, strict=True)]
    assert line.misfit == pytest.approx(max(off))


def test_an_engine_on_a_clock_that_ticks_at_each_look_takes_one_tick_a_step() -> None:
    ticks = iter(range(10**9))
    engine = Engine(tiny(), slots=4, context=256)
    speed = measure(engine, rounds=2, clock=lambda: float(next(ticks)))
    assert speed.step_s == {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}
    assert (engine.in_flight, speed.line.b_s) == (0, pytest.approx(0.0, abs=1e-9))
    assert set(speed.step_spread.values()) == {0.0}


def test_the_profile_it_writes_is_one_that_a_config_reads() -> None:
    engine = Engine(tiny(), slots=2, context=128)
    text = yaml.safe_dump(document("tiny", "fp32", engine.provider, "a machine", measure(engine, rounds=1)), sort_keys=False)
    config = parse(LOCAL.read_text(), LOCAL.name, ["nodes.laptop.hardware={profile: mine.yaml}"], files=lambda path: text)
    figures = config.nodes[0].profile("tiny")
    assert figures.a_ns + figures.b_ns > 0
    said = yaml.safe_load(text)["models"]["tiny"]
    for name in ("prefill_tok_s", "prefill_beside_tok_s", "chunk_tok"):
        assert getattr(figures, name) == pytest.approx(said[name])
    assert revise(config, {"seed": 2}).nodes == config.nodes
