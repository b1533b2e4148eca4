"""The reference networks say what the documents claim of them, as the files stand."""

from pathlib import Path

import pytest

from lattice_core.capacity import mean_tokens, utilisation
from lattice_core.config import Config, parse
from lattice_core.units import HOUR_NS, NANO

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
MODEL = "deepseek-r1-distill-70b"


def read(name: str) -> Config:
    return parse((EXPERIMENTS / name).read_text(encoding="utf-8"), name, base=str(EXPERIMENTS))


@pytest.fixture(scope="module")
def baseline() -> Config:
    return read("baseline.yaml")


def test_the_baseline_has_12_servers_60_households_and_2000_users_for_24_hours(baseline: Config) -> None:
    assert {nodes.name: nodes.count for nodes in baseline.nodes} == {"datacentre": 12, "household": 60}
    assert sum(users.count for users in baseline.users) == 2_000
    assert (baseline.sim.epochs, baseline.chain.epoch_ns) == (24, HOUR_NS)
    assert baseline.reputation.history == 50


def test_the_baseline_offers_about_100000_requests_a_day(baseline: Config) -> None:
    workloads = [users.workload.modulated for users in baseline.users]
    assert sum(w.requests_per_day for w in workloads if w is not None) == pytest.approx(100_000, rel=0.05)
    assert None not in workloads


def test_the_baselines_answers_have_1000_to_3000_tokens_and_its_homes_one_or_two_slots(baseline: Config) -> None:
    tokens = baseline.users[0].tokens
    assert tokens.prompt is not None
    assert tokens.output is not None
    assert 1_000 < mean_tokens(tokens.output, tokens.max_tokens) < 3_000
    assert 100 <= tokens.prompt.median <= 1_000
    household = baseline.population("household")
    assert household.slots in (1, 2)
    assert household.price.output_nlai < baseline.population("datacentre").price.output_nlai


def test_the_baselines_load_peaks_in_the_evening_at_75_to_85_percent(baseline: Config) -> None:
    by_hour = utilisation(baseline, MODEL)
    peak = max(by_hour)
    assert 0.75 <= peak <= 0.85
    assert 18 <= by_hour.index(peak) <= 22


def test_the_local_network_launches_two_nodes_that_settle_every_ten_seconds() -> None:
    local = read("local.yaml")
    assert sum(local.live.launch.values()) == 2
    assert local.chain.epoch_ns == 10 * NANO
    assert local.live.listen == "127.0.0.1:8080"
    assert all(model.weights is not None for model in local.models.values())
    assert max(utilisation(local, "smollm2-135m")) < 0.5


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_reference_network_is_named_like_its_file(path: Path) -> None:
    assert read(path.name).name == path.stem
