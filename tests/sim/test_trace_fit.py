"""A preset comes near its trace, says where it does not, and the one that ships is the one that is fitted."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_core.config.network import PRESETS, Preset
from lattice_core.config.presets import FITTED
from lattice_core.units import HOUR_NS, MAX_TOKENS, NANO
from lattice_sim.trace import Trace, TraceError, header, read_trace
from lattice_sim.trace_fit import covariance, fit, quantiles, sessions, text
from lattice_sim.workload import workload
from tests.sim.test_trace import azure_2023_code
from tests.sim.test_workload import network, users

OUTPUT = {"median": 40, "sigma": 1.0}


def played(hours: int = 1, **workload_keys: object) -> Trace:
    """A trace that a workload has made."""
    tokens = {"prompt": {"median": 300, "sigma": 0.8}, "output": OUTPUT, "max_tokens": 3000}
    config = network(users(rhythm=workload_keys, tokens=tokens, model="large"))
    requests = workload(config, config.users[0]).until(hours * HOUR_NS)
    none = np.zeros_like(requests.t_ns)
    t_ns = requests.t_ns - requests.t_ns[0]
    return Trace(t_ns, requests.prompt_tok, requests.output_tok, requests.session, requests.prefix, none)


def fitted(trace: Trace) -> tuple[Preset, dict[str, bool]]:
    found = fit(trace, header(trace, "s", "l"), "t")
    return Preset.model_validate(found.preset), {check.what: check.passed for check in found.tests}


def test_a_bursty_trace_gets_a_preset_that_passes_its_tests() -> None:
    bursts = [{"cv": 0.5, "period": "1.3s"}, {"cv": 1.0, "period": "13s", "silent": 0.3}, {"cv": 0.8, "period": "47s"}]
    preset, passed = fitted(played(2, modulated={"requests_per_day": 200_000, "bursts": bursts}))
    assert all(passed.values()), passed
    assert len(preset.modulated.bursts) >= 2
    assert preset.sessions is None


def test_a_poisson_trace_gets_a_preset_that_hardly_bursts() -> None:
    preset, passed = fitted(played(4, poisson={"requests_per_day": 200_000}))
    assert all(burst.cv < 0.2 for burst in preset.modulated.bursts)
    assert sum(passed.values()) >= len(passed) - 1, passed


def test_sessions_are_found_and_what_a_preset_lacks_is_said() -> None:
    trace = played(poisson={"requests_per_day": 200_000}, sessions={"turns": 3.0, "spread": 50.0})
    preset, passed = fitted(trace)
    assert preset.sessions is not None
    assert preset.sessions.turns == pytest.approx(3, rel=0.05)
    assert preset.sessions.spread == pytest.approx(50, rel=0.1)
    assert passed["share of sessions of one turn: within 0.05"]
    bare = trace._replace(session=np.zeros_like(trace.session), reused_tok=trace.prompt_tok // 2)
    bare = bare._replace(output_tok=bare.prompt_tok)
    found = fit(bare, header(bare, "s", "l"), "t")
    failed = [check.what for check in found.tests if not check.passed]
    assert {"share of prompt tokens that came before", "rank correlation of prompt and answer"} <= {
        what.partition(", of which")[0] for what in failed
    }
    document = yaml.safe_load(text("mine", found))
    assert document["verdict"] == f"{len(failed)} of {len(found.tests)} tests failed"
    assert [test["passed"] for test in document["tests"]].count(False) == len(failed)
    assert Preset.model_validate({name: document[name] for name in found.preset}) == Preset.model_validate(found.preset)


@pytest.mark.parametrize(("requests", "gap_s", "least"), [(99, 10, "99 over 980.0 s"), (1000, 0, "1000 over 0.0 s")])
def test_a_trace_too_short_to_fit_is_refused(requests: int, gap_s: int, least: str) -> None:
    ones = np.ones(requests, np.int64)
    trace = Trace(np.arange(requests) * gap_s * NANO, ones, ones, 0 * ones, 0 * ones, 0 * ones)
    with pytest.raises(TraceError, match=rf"t: must have 100 requests over 120 s at least to be fitted, not {least}"):
        fit(trace, header(trace, "s", "l"), "t")


@given(tok=st.lists(st.one_of(st.integers(1, 30), st.integers(1, MAX_TOKENS)), min_size=1, max_size=300))
def test_points_of_a_law_are_near_its_lengths_and_span_them(tok: list[int]) -> None:
    points = quantiles(np.array(tok))
    Preset.model_validate({**FITTED["azure-2023-code"], "prompt": {"quantiles": points}})
    assert (points["tok"][0], points["tok"][-1]) == (min(tok) - 0.5, max(tok) + 0.5)
    at = np.array(sorted({*tok, *(length - 1 for length in tok)})) + 0.5
    law = np.interp(np.log(at), np.log(points["tok"]), points["share"])
    seen = np.array([np.mean(np.array(tok) < x) for x in at])
    assert np.max(abs(law - seen)) <= max(0.6 / math.sqrt(len(tok)), 0.003) + 1e-5


@given(cv=st.floats(0.1, 3), period_s=st.floats(0.1, 100), ratio=st.floats(0.01, 1))
def test_the_covariance_of_one_burst_within_its_period_is_that_of_the_formula(cv: float, period_s: float, ratio: float) -> None:
    """C(w) = v·(1 − w/(3P)) for w ≤ P."""
    value = covariance(ratio * period_s, np.array([cv**2]), np.array([period_s]))
    assert value == pytest.approx(cv**2 * (1 - ratio / 3), rel=1e-4)


def test_requests_that_do_not_belong_together_have_no_sessions() -> None:
    assert sessions(np.zeros(9, np.int64)) is None
    assert sessions(np.arange(9)) is None


def test_the_preset_that_ships_is_the_one_that_is_fitted(tmp_path: Path) -> None:
    trace = read_trace(str(azure_2023_code()))
    shipped = PRESETS["azure-2023-code"]
    found = fit(trace, header(trace, shipped.source, shipped.licence), "azure")
    assert Preset.model_validate(found.preset) == shipped
    assert all(check.passed for check in found.tests)
    assert "all 10 tests passed" in text("azure-2023-code", found)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**63 - 1))
def test_the_shipped_preset_keeps_the_rate_and_the_median_lengths_of_its_trace(seed: int) -> None:
    rhythm = {"preset": "azure-2023-code"}
    config = network(users(rhythm=rhythm, tokens={"max_tokens": 2000}, model="large"), seed=seed)
    requests = workload(config, config.users[0]).until(40 * HOUR_NS)
    assert len(requests.t_ns) / (40 * 3600) == pytest.approx(2.567, rel=0.2)
    assert np.median(requests.prompt_tok) == pytest.approx(1469, rel=0.05)
    assert np.median(requests.output_tok) == 13
