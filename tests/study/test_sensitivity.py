"""Indices against functions whose indices are known, their convergence, and a small study whole."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lattice_cli.main import main
from lattice_core.config import ConfigError
from lattice_sim.study.executors import InProcess
from lattice_sim.study.sensitivity import COLUMNS, converging, indices, noise_share, runs_of, sample, sensitivity, verdict
from lattice_sim.study.store import Store, load_study
from tests.study.asked import SMALL, study

REQUESTS = "users.visitor.workload.poisson.requests_per_day"

SMALL_STUDY: dict[str, Any] = {
    "set": SMALL | {"chain.epoch": "10s", "sim.epochs": 1},
    "method": "morris",
    "samples": 8,
    "factors": {REQUESTS: {"from": 100, "to": 2_000_000, "scale": "log"}, "routing.explore": {"from": 0.0, "to": 0.5}},
    "metrics": ["arrived", "completed_share"],
}

ABC = ["a", "b", "c"]


def ishigami(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """sin x₁ + 7 sin² x₂ + 0.1 x₃⁴ sin x₁ for x in ±π (Ishigami & Homma 1990)."""
    x = (2.0 * unit - 1.0) * math.pi
    return np.sin(x[:, 0]) + 7.0 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


def test_sobol_indices_of_the_ishigami_function_are_the_known_ones() -> None:
    unit = sample("sobol", 3, 2048, 4, seed=1)
    found = indices("sobol", unit, ishigami(unit), 4, seed=1)
    for name, known in (("first", [0.3139, 0.4424, 0.0]), ("total", [0.5576, 0.4424, 0.2437])):
        value, half = found[name]
        assert half is not None
        assert np.abs(value - known).max() < 0.05, name
        assert (np.abs(value - known) <= 1.5 * half + 1e-9).all(), name


def test_morris_effects_of_a_straight_line_are_its_slopes() -> None:
    unit = sample("morris", 3, 16, 4, seed=2)
    found = indices("morris", unit, unit @ np.array([3.0, -2.0, 0.0]), 4, seed=2)
    assert np.allclose(found["mu"][0], [3.0, -2.0, 0.0])
    assert np.allclose(found["mu_star"][0], [3.0, 2.0, 0.0])
    assert np.allclose(found["sigma"][0], 0.0)


def test_morris_sees_an_interaction_as_a_spread_of_effects() -> None:
    unit = sample("morris", 3, 64, 4, seed=3)
    sigma = indices("morris", unit, unit[:, 0] * unit[:, 1] + unit[:, 2], 4, seed=3)["sigma"][0]
    assert sigma[0] > 0.2
    assert sigma[1] > 0.2
    assert sigma[2] == pytest.approx(0.0, abs=1e-9)


@given(st.sampled_from(["morris", "sobol"]), st.integers(1, 5), st.integers(2, 5), st.integers(0, 2**63 - 1))
def test_a_sample_begins_with_the_smaller_one_of_its_seed(method: str, factors: int, power: int, seed: int) -> None:
    whole, half = (sample(method, factors, count, 4, seed) for count in (2**power, 2 ** (power - 1)))  # type: ignore[arg-type]
    assert np.array_equal(whole[: len(half)], half)
    assert len(whole) == 2 * len(half)
    assert ((whole >= 0.0) & (whole <= 1.0)).all()


def test_indices_converge_over_growing_parts_of_the_sample() -> None:
    unit = sample("sobol", 3, 1024, 4, seed=7)
    table = converging("sobol", ABC, unit, {"x_s": ishigami(unit)}, 4, seed=4)
    assert list(table.columns) == list(COLUMNS)
    assert sorted(table["samples"].unique()) == [256, 512, 1024]
    halves = table[table["index"] == "total"].groupby("samples")["half_width"].mean()
    assert halves[1024] < halves[256]
    assert verdict(table, "x_s", "sobol") == "x_s: the ranking has settled: a ≈ b > c"


def test_a_small_sample_settles_nothing() -> None:
    unit = sample("sobol", 3, 8, 4, seed=5)
    table = converging("sobol", ABC, unit, {"x_s": ishigami(unit)}, 4, seed=5)
    assert "the ranking has not settled" in verdict(table, "x_s", "sobol")


@pytest.mark.parametrize("method", ["morris", "sobol"])
def test_a_metric_that_nothing_changes_has_indices_of_0(method: str) -> None:
    unit = sample(method, 2, 8, 4, seed=6)  # type: ignore[arg-type]
    table = converging(method, ["a", "b"], unit, {"x_s": np.full(len(unit), 7.0)}, 4, seed=6)  # type: ignore[arg-type]
    assert (table["value"] == 0.0).all()
    assert verdict(table, "x_s", method) == "x_s: no factor changes it"  # type: ignore[arg-type]


def test_noise_that_all_points_share_is_none_with_common_seeds() -> None:
    points, replications = np.arange(8.0)[:, None], np.array([[0.0, 5.0, -3.0, 1.0]])
    assert noise_share(points + replications, common=True) == pytest.approx(0.0, abs=1e-12)
    independent = noise_share(points + replications, common=False)
    assert independent is not None
    assert independent > 0.1
    assert noise_share(points, common=True) is None


def test_a_study_leaves_indices_verdicts_and_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = study(tmp_path, "sensitivity", **SMALL_STUDY)
    store = Store.open(tmp_path / "out", asked)
    sensitivity(asked, store, InProcess())
    table = pd.read_parquet(store.folder / "indices.parquet")
    assert set(table["metric"]) == {"arrived"}
    assert set(table["samples"]) == {2, 4, 8}
    last = table[table["samples"] == 8].set_index(["metric", "factor", "index"])["value"]
    assert last["arrived", REQUESTS, "mu"] > 100.0
    assert last["arrived", "routing.explore", "mu_star"] == 0.0
    assert store.manifest["verdicts"]["arrived"] == f"arrived: the ranking has settled: {REQUESTS} > routing.explore"
    assert store.manifest["verdicts"]["completed_share"] == "completed_share: not known in every run, so that it has no indices"
    assert set(store.manifest["noise"]) == {"arrived"}
    assert 0.0 <= store.manifest["noise"]["arrived"] < 0.1
    assert len(load_study(store.folder)) == runs_of(asked.asked) == 8 * 3 * 2  # type: ignore[arg-type]

    assert main(["sensitivity", str(tmp_path / "study.yaml"), "--out", str(store.folder)]) == 0
    shown = capsys.readouterr().out
    assert "arrived: the ranking has settled: " in shown
    assert "of the variance between points; it adds to mu_star and sigma" in shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "sobol", "samples": 12}, "samples: must be a power of two for method: sobol, not 12"),
        ({"method": "fast"}, "sensitivity: method: "),
        ({"levels": 3}, "levels: "),
        ({"samples": 4}, "samples: "),
        ({"metrics": ["wait_s"]}, "wait_s is not recorded"),
        ({"replications": {"until": {"metric": "arrived", "half_width": 1}}}, "replications"),
    ],
)
def test_bad_input_is_one_line_that_names_file_and_key(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        study(tmp_path, "sensitivity", **(SMALL_STUDY | changes))
    line = str(refused.value)
    assert said in line
    assert line.startswith(str(tmp_path / "study.yaml"))
    assert len(line.splitlines()) == 1
