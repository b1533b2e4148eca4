"""Requests arrive as the config says, wherever a run is cut and whoever else is there."""

import itertools
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lattice_core.config import Config, parse
from lattice_core.config.quantities import MAX_DURATION_NS
from lattice_core.streams import ARRIVALS, BURST, SILENCE, entity_key, exponential, gamma, uniform
from lattice_core.units import DAY_NS, HOUR_NS, MINUTE_NS, NANO, NEVER_NS
from lattice_sim.trace import Trace, TraceError, read_trace, write_trace
from lattice_sim.workload import Requests, workload
from tests.sim.test_trace import GOOD, HEADER, LATER, azure_2023_code, write

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ONE_IN_A_MILLION = 1e-6
SIGMAS = 4.0

HOURLY = [0.0, *range(1, 24)]
POISSON = {"poisson": {"requests_per_day": 20_000}}
BURSTS = [{"cv": 2.0, "period": "7m"}, {"cv": 1.0, "period": "50s", "silent": 0.3}]
BURSTY = {"modulated": {"requests_per_day": 20_000, "hourly": HOURLY, "bursts": BURSTS}}
TURNS = {"poisson": {"requests_per_day": 20_000}, "sessions": {"turns": 2.5, "spread": 40.0}}
FITTED = {"preset": "azure-2023-code", "stretch": 20.0, "scale": 2.0}
REFERENCE = {"ttft": "1s", "itl": "40ms", "prefill_tok_s": 1000, "output_tok": 100, "price_input": 1, "price_output": 1}

whole_days = st.integers(1, 3).map(lambda days: days * DAY_NS)
rhythms = st.sampled_from([POISSON, BURSTY, TURNS, FITTED])


def users(name: str = "chat", rhythm: Any = POISSON, **keys: Any) -> dict[str, Any]:
    tokens = {"prompt": {"median": 300, "sigma": 0.8}, "output": {"median": 200, "sigma": 0.5}, "max_tokens": 1000}
    return {
        "name": name, "count": 50, "model": {"large": 3.0, "small": 1.0}, "workload": rhythm, "tokens": tokens,
        "budget": {"deposit": 1}, "patience": {"median": "45s", "sigma": 0.5},
    } | keys  # fmt: skip


def network(*populations: dict[str, Any], nodes: int = 1, **keys: Any) -> Config:
    models = {"large": 32_768, "small": 4096}
    node = {"models": [*models], "hardware": {"a": "10ms", "b": "1ms", "prefill_tok_s": 1000}, "slots": 1, "bond": 100}
    document = {
        "version": 1, "name": "test", "seed": 7,
        "models": {name: {"kind": "llm", "context": context, "reference": REFERENCE} for name, context in models.items()},
        "nodes": [{"name": "node", "count": nodes, "price": {"input": 1, "output": 1}} | node],
        "users": list(populations),
    }  # fmt: skip
    return parse(json.dumps(document | keys), "test")


def arrivals(config: Config, until_ns: int = DAY_NS, population: int = 0) -> Requests:
    return workload(config, config.users[population]).until(until_ns)


def same(left: Requests, right: Requests) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def joined(blocks: list[Requests]) -> Requests:
    return Requests(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))


# Blocks


@given(rhythm=rhythms, cuts_ns=st.lists(st.integers(0, DAY_NS), max_size=12), seed=st.integers(0, 2**63 - 1))
def test_where_a_run_is_cut_makes_no_difference(rhythm: Any, cuts_ns: list[int], seed: int) -> None:
    config = network(users(rhythm=rhythm), seed=seed)
    source = workload(config, config.users[0])
    blocks = []
    for cut_ns in [*sorted(cuts_ns), DAY_NS]:
        source = pickle.loads(pickle.dumps(source))
        blocks.append(source.until(cut_ns))
        assert (blocks[-1].t_ns < cut_ns).all()
    assert same(joined(blocks), arrivals(config))


@given(rhythm=rhythms, until_ns=whole_days, seed=st.integers(0, 2**63 - 1))
def test_requests_come_in_time_order_from_users_and_models_that_exist(rhythm: Any, until_ns: int, seed: int) -> None:
    config = network(users(rhythm=rhythm), seed=seed)
    requests = arrivals(config, until_ns)
    assert len({len(column) for column in requests}) == 1
    assert {column.dtype for column in requests} == {np.dtype(np.int64)}
    assert (np.diff(requests.t_ns, prepend=0) >= 0).all()
    assert (requests.t_ns < until_ns).all()
    context_tok = np.array([model.context_tok for model in config.models.values()])[requests.model]
    assert set(requests.user) <= set(range(50))
    assert (requests.prompt_tok >= 1).all()
    assert (requests.output_tok >= 1).all()
    assert (requests.output_tok <= requests.max_tok).all()
    assert (requests.max_tok <= 1000).all()
    assert (requests.prompt_tok + requests.max_tok <= context_tok).all()
    assert (requests.patience_ns >= 1).all()


def test_a_time_that_has_passed_brings_nothing_more() -> None:
    config = network(users())
    source = workload(config, config.users[0])
    source.until(HOUR_NS)
    assert len(source.until(HOUR_NS).t_ns) == len(source.until(0).t_ns) == 0
    assert source.remaining() == 0


@given(rhythm=rhythms, most=st.lists(st.integers(1, 4000), min_size=1, max_size=5), seed=st.integers(0, 2**63 - 1))
def test_blocks_of_any_size_are_the_same_requests(rhythm: Any, most: list[int], seed: int) -> None:
    config = network(users(rhythm=rhythm), seed=seed)
    source = workload(config, config.users[0])
    blocks = []
    for size in itertools.chain(most, itertools.repeat(5000)):
        source = pickle.loads(pickle.dumps(source))
        blocks.append(source.block(DAY_NS, size))
        assert len(blocks[-1].t_ns) <= size
        if len(blocks[-1].t_ns) == 0:
            break
    assert same(joined(blocks), arrivals(config))


def test_a_long_block_is_the_sum_of_its_hours() -> None:
    """More requests than are computed at once."""
    config = network(users(rhythm={"poisson": {"requests_per_day": 200_000}}, count=1))
    source = workload(config, config.users[0])
    assert same(joined([source.until(hour * HOUR_NS) for hour in range(1, 25)]), arrivals(config))


# Who else is there


@given(rhythm=rhythms, count=st.integers(1, 1000), nodes=st.integers(1, 50))
def test_another_population_or_node_changes_nothing_in_this_one(rhythm: Any, count: int, nodes: int) -> None:
    """INV-8."""
    alone = network(users(rhythm=rhythm))
    crowded = network(users("api", BURSTY, count=count), users(rhythm=rhythm), nodes=nodes)
    assert same(arrivals(alone), arrivals(crowded, population=1))


@given(rhythm=rhythms, count=st.integers(1, 1000))
def test_one_more_user_takes_requests_and_changes_nothing_else(rhythm: Any, count: int) -> None:
    """INV-8: each request stays with its user or goes to the new one."""
    before, after = (arrivals(network(users(rhythm=rhythm, count=n))) for n in (count, count + 1))
    assert same(before._replace(user=after.user), after)
    moved = before.user != after.user
    assert set(after.user[moved]) <= {count}
    assert stats.binomtest(int(moved.sum()), len(moved), 1 / (count + 1)).pvalue > ONE_IN_A_MILLION


@given(longer=st.integers(301, 5000), patience_s=st.integers(1, 1000))
def test_other_lengths_or_patience_leave_the_arrivals_where_they_were(longer: int, patience_s: int) -> None:
    tokens = {"prompt": longer, "output": 20, "max_tokens": 1000}
    before, after = arrivals(network(users())), arrivals(network(users(tokens=tokens, patience=patience_s)))
    assert np.array_equal(before.t_ns, after.t_ns)
    assert np.array_equal(before.user, after.user)
    assert np.array_equal(before.model, after.model)


@pytest.mark.parametrize("other", [network(users(), seed=8), network(users("api"))], ids=["seed", "name"])
def test_another_seed_or_name_draws_other_requests(other: Config) -> None:
    mine, theirs = arrivals(network(users())), arrivals(other)
    assert not set(mine.t_ns) & set(theirs.t_ns)


def test_requests_are_spread_evenly_over_the_users() -> None:
    requests = arrivals(network(users()), 5 * DAY_NS)
    assert stats.chisquare(np.bincount(requests.user, minlength=50)).pvalue > ONE_IN_A_MILLION


def test_models_are_asked_for_by_their_weights() -> None:
    large = int((arrivals(network(users())).model == 0).sum())
    asked = len(arrivals(network(users())).model)
    assert stats.binomtest(large, asked, 0.75).pvalue > ONE_IN_A_MILLION


# When


@given(
    start_hour=st.floats(0, 24, exclude_max=True),
    cv=st.floats(0.05, 5),
    period_min=st.integers(1, 1440),
    silent=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_cumulated_rate_between_arrivals_is_the_stream_of_unit_exponentials(
    start_hour: float, cv: float, period_min: int, silent: float, seed: int
) -> None:
    """Exact inversion, against a plain integration of the rate."""
    per_day, slow_ns = 300.0, 100 * MINUTE_NS
    silent *= 1 - 1 / (1 + cv**2)  # the rest of the draws varies yet
    bursts = [{"cv": cv, "period": f"{period_min}m", "silent": silent}, {"cv": 0.5, "period": "100m"}]
    rhythm = {"modulated": {"requests_per_day": per_day, "hourly": HOURLY, "bursts": bursts}}
    config = network(users(rhythm=rhythm), seed=seed, sim={"start_hour": start_hour})
    key, period_ns, start_ns = entity_key("chat", -1), period_min * MINUTE_NS, int(start_hour * HOUR_NS)
    shape = 1 / max((1 + cv**2) * (1 - silent) - 1, 1e-12)

    def burst(t_ns: int) -> float:
        fast, slow = 2 * (t_ns // period_ns), 2 * (t_ns // slow_ns) + 1
        loud = silent == 0 or uniform(seed, SILENCE, key, fast) >= silent
        return loud * gamma(shape, seed, BURST, key, fast) / shape / (1 - silent) * gamma(4.0, seed, BURST, key, slow) / 4

    edges_ns = {0, DAY_NS, *range(0, DAY_NS, period_ns), *range(0, DAY_NS, slow_ns)}
    edges_ns |= {hour * HOUR_NS - start_ns for hour in range(1, 49)}
    pieces = np.array(sorted(edge for edge in edges_ns if 0 <= edge <= DAY_NS))
    middles = (pieces[:-1] + pieces[1:]) // 2
    per_ns = [per_day / DAY_NS * HOURLY[(t + start_ns) // HOUR_NS % 24] / np.mean(HOURLY) * burst(t) for t in middles.tolist()]
    cumulated = np.concatenate([[0.0], np.cumsum(np.array(per_ns) * np.diff(pieces))])
    t_ns = arrivals(config).t_ns
    due = np.cumsum([exponential(seed, ARRIVALS, key, i) for i in range(len(t_ns) + 1)])
    most = max(per_ns)  # a time is cut to a whole ns
    assert np.interp(t_ns, pieces, cumulated) == pytest.approx(due[:-1], rel=1e-9, abs=2 * most)
    assert due[-1] > cumulated[-1] * (1 - 1e-9)


def test_poisson_arrivals_have_exponential_gaps_of_the_given_mean() -> None:
    t_s = arrivals(network(users()), 5 * DAY_NS).t_ns / NANO
    assert stats.kstest(np.diff(t_s, prepend=0.0), stats.expon(scale=86_400 / 20_000).cdf).pvalue > ONE_IN_A_MILLION


@given(per_day=st.floats(10, 50_000), scale=st.floats(0.1, 5), seed=st.integers(0, 2**63 - 1))
def test_the_rate_is_the_one_asked_for(per_day: float, scale: float, seed: int) -> None:
    flat = {"modulated": {"requests_per_day": per_day}, "scale": scale}
    constant = {"poisson": {"requests_per_day": per_day}, "scale": scale}
    requests = arrivals(network(users(rhythm=constant), seed=seed))
    assert stats.poisson.cdf(len(requests.t_ns), per_day * scale) > ONE_IN_A_MILLION
    assert stats.poisson.sf(len(requests.t_ns) - 1, per_day * scale) > ONE_IN_A_MILLION
    assert same(requests, arrivals(network(users(rhythm=flat), seed=seed)))


@pytest.mark.parametrize("start_hour", [0, 5.5, 23])
def test_arrivals_follow_the_hours_of_the_day_from_the_starting_hour_on(start_hour: float) -> None:
    rhythm = {"modulated": {"requests_per_day": 20_000, "hourly": HOURLY}}
    requests = arrivals(network(users(rhythm=rhythm), sim={"start_hour": start_hour}), 3 * DAY_NS)
    hours = (requests.t_ns + int(start_hour * HOUR_NS)) // HOUR_NS % 24
    seen = np.bincount(hours, minlength=24)
    expected = 3 * 20_000 * np.array(HOURLY) / sum(HOURLY)
    assert seen[0] == 0
    assert (abs(seen - expected) <= SIGMAS * np.sqrt(expected)).all()


def test_bursts_have_mean_one_and_the_given_variation_over_each_period() -> None:
    cv, periods, mean = 0.8, 6 * 1440, 50.0
    rhythm = {"modulated": {"requests_per_day": mean * 1440, "bursts": [{"cv": cv, "period": "1m"}]}}
    t_ns = arrivals(network(users(rhythm=rhythm)), periods * MINUTE_NS).t_ns
    counts = np.bincount(t_ns // MINUTE_NS, minlength=periods)
    negative_binomial = stats.nbinom(1 / cv**2, 1 / (1 + mean * cv**2))  # Poisson of a gamma
    assert abs(counts.mean() - mean) < SIGMAS * negative_binomial.std() / math.sqrt(periods)
    fourth = negative_binomial.stats(moments="k") + 2
    assert abs(counts.var() / negative_binomial.var() - 1) < SIGMAS * math.sqrt(fourth / periods)
    assert stats.kstest(t_ns % MINUTE_NS / MINUTE_NS, "uniform").pvalue > ONE_IN_A_MILLION


def test_bursts_spread_the_minutes_further_than_poisson_does() -> None:
    """Index of dispersion of counts over 60 s: 1 for Poisson, within 4 sigma."""

    def dispersion(rhythm: Any) -> float:
        counts = np.bincount(arrivals(network(users(rhythm=rhythm)), DAY_NS).t_ns // MINUTE_NS, minlength=1440)
        return counts.var() / counts.mean()

    assert abs(dispersion(POISSON) - 1) < SIGMAS * math.sqrt(2 / 1440)
    assert dispersion({"modulated": {"requests_per_day": 20_000, "bursts": [{"cv": 0.5, "period": "5m"}]}}) > 2


def test_extreme_bursts_neither_hang_nor_overflow() -> None:
    for burst in ({"cv": 1e-300}, {"cv": 100.0}, {"cv": 100.0, "silent": 0.9999}):
        rhythm = {"modulated": {"requests_per_day": 2000, "bursts": [burst | {"period": "1h"}] * 3}}
        assert (np.diff(arrivals(network(users(rhythm=rhythm)), 30 * DAY_NS).t_ns) >= 0).all()


# Scaling keeps burstiness


BURST_SET = [
    {"cv": 0.5, "period": "0.7s", "silent": 0.1},
    {"cv": 1.2, "period": "7s", "silent": 0.4},
    {"cv": 1, "period": "70s"},
]


@given(
    stretch=st.integers(10, 20_000).map(lambda thousandths: thousandths / 1000),  # so that periods are whole ns
    bursts=st.lists(st.sampled_from(BURST_SET), max_size=3),
    per_day=st.floats(1_000, 50_000),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_stretched_workload_is_the_same_requests_at_stretched_times(
    stretch: float, bursts: list[dict[str, Any]], per_day: float, seed: int
) -> None:
    """So that the index of dispersion over w is now the one over w · stretch."""
    rhythm = {"modulated": {"requests_per_day": per_day, "bursts": bursts}}
    plain = arrivals(network(users(rhythm=rhythm), seed=seed), HOUR_NS)
    stretched = arrivals(network(users(rhythm=rhythm | {"stretch": stretch}), seed=seed), int(HOUR_NS * stretch))
    count = min(len(plain.t_ns), len(stretched.t_ns))
    assert abs(len(plain.t_ns) - len(stretched.t_ns)) <= 1
    assert (abs(stretched.t_ns[:count] - plain.t_ns[:count] * stretch) <= 1_000 * max(1, stretch)).all()
    assert same(*(Requests(*(column[:count] for column in r))._replace(t_ns=plain.t_ns[:count]) for r in (plain, stretched)))


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_a_scaled_workload_keeps_the_relative_variance_of_its_rate(scale: float) -> None:
    """(IDC(w) − 1)/mean count in w stays. The bursts' draws stay too, so that little chance is left between the two."""
    rhythm = {"modulated": {"requests_per_day": 200_000, "bursts": BURST_SET}}

    def relative_variance(rhythm: Any, window_s: int) -> float:
        t_ns = arrivals(network(users(rhythm=rhythm)), 4 * DAY_NS).t_ns
        counts = np.bincount(t_ns // (window_s * NANO), minlength=4 * 86_400 // window_s)
        return (counts.var() / counts.mean() - 1) / counts.mean()

    for window_s in (1, 10, 60):
        plain, scaled = relative_variance(rhythm, window_s), relative_variance(rhythm | {"scale": scale}, window_s)
        assert scaled == pytest.approx(plain, rel=0.05)
        assert plain > 0.5


def test_a_stretched_trace_is_a_slowed_one(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, GOOD, LATER)
    config = network(users(rhythm={"trace": path, "stretch": 2.0}))
    assert arrivals(config).t_ns.tolist() == [0, 104_000_000]
    assert same(arrivals(config), arrivals(replay(path, 0.5)))


# Who turns to whom again


@given(turns=st.floats(0.1, 8), spread=st.floats(0, 200), count=st.integers(1, 500), seed=st.integers(0, 2**63 - 1))
def test_the_turns_of_a_session_have_one_user_one_model_and_one_prefix(
    turns: float, spread: float, count: int, seed: int
) -> None:
    rhythm = {"poisson": {"requests_per_day": 5000}, "sessions": {"turns": turns, "spread": spread}}
    requests = arrivals(network(users(rhythm=rhythm, count=count), seed=seed))
    assert (requests.session > 0).all()
    assert np.array_equal(requests.session, requests.prefix)
    of_session = np.stack([requests.session, requests.user, requests.model])
    assert len(np.unique(of_session, axis=1)[0]) == len(np.unique(requests.session))
    rows: dict[int, list[int]] = {}
    for row, session in enumerate(requests.session.tolist()):
        rows.setdefault(session, []).append(row)
    assert all(taken[-1] - taken[0] <= spread + turns for taken in rows.values())


def test_sessions_have_poisson_turns_of_the_given_mean() -> None:
    session = arrivals(network(users(rhythm=TURNS)), 5 * DAY_NS).session[100:-100]
    seen = np.bincount(np.unique(session, return_counts=True)[1], minlength=12)[1:12]
    law = stats.poisson(2.5).pmf(np.arange(1, 12))
    expected = law / law.sum() * seen.sum()
    assert abs(seen.sum() / (len(session) / 2.5 * (1 - math.exp(-2.5))) - 1) < 0.02
    assert (abs(seen - expected) <= SIGMAS * np.sqrt(expected) + 5).all()


def test_two_populations_never_share_a_session() -> None:
    config = network(users(rhythm=TURNS), users("api", TURNS))
    assert not set(arrivals(config).session) & set(arrivals(config, population=1).session)
    assert not arrivals(network(users())).session.any()
    assert not arrivals(network(users())).prefix.any()


def test_a_trace_brings_its_sessions_and_prefixes(tmp_path: Path) -> None:
    path = str(tmp_path / "trace.parquet")
    column = [np.array(values, np.int64) for values in ([0, 1, 2, 3], [1] * 4, [1] * 4, [5, 0, 5, 6], [7, 7, 0, 8], [0] * 4)]
    write_trace(path, Trace(*column), "s", "l")
    first, second = (arrivals(network(users("a", {"trace": path}), users("b", {"trace": path})), population=n) for n in (0, 1))
    assert first.session[0] == first.session[2] > 0 == first.session[1]
    assert len(set(first.session) & set(second.session)) == 1, "none but the 0"
    assert first.prefix.tolist() == second.prefix.tolist() == [7, 7, 0, 8]
    assert first.user[0] == first.user[2]


# A preset


def test_a_preset_brings_lengths_which_a_population_may_replace() -> None:
    bare, shorter = {"max_tokens": 2000}, {"max_tokens": 2000, "output": 9}
    plain, other = (arrivals(network(users(rhythm=FITTED, tokens=tokens, model="large"))) for tokens in (bare, shorter))
    assert set(other.output_tok) == {9}
    assert np.array_equal(plain.t_ns, other.t_ns)
    assert np.array_equal(plain.prompt_tok, other.prompt_tok)
    assert (plain.prompt_tok.min(), plain.prompt_tok.max()) == (3, 7437)


@given(seed=st.integers(0, 2**63 - 1))
def test_lengths_by_quantiles_have_the_given_shares(seed: int) -> None:
    points = {"share": [0, 0.25, 0.25, 0.5, 1], "tok": [4.5, 8.5, 99.5, 120.5, 1000.5]}
    tokens = {"prompt": {"quantiles": points}, "output": {"quantiles": points}, "max_tokens": 1001}
    requests = arrivals(network(users(tokens=tokens, model="large"), seed=seed), 3 * HOUR_NS)
    for lengths in (requests.prompt_tok, requests.output_tok):
        assert 5 <= lengths.min() <= lengths.max() <= 1000
        for most, share in ((8, 0.25), (99, 0.25), (120, 0.5), (346, 0.7493)):
            assert stats.binomtest(int((lengths <= most).sum()), len(lengths), share).pvalue > ONE_IN_A_MILLION


# How long


@given(prompt=st.integers(1, 1000), sigma=st.floats(0.1, 0.6), patience_s=st.integers(1, 5000), seed=st.integers(0, 2**63 - 1))
def test_lengths_and_patience_are_lognormal_about_their_medians(prompt: int, sigma: float, patience_s: int, seed: int) -> None:
    tokens = {"prompt": {"median": prompt, "sigma": sigma}, "output": {"median": 90, "sigma": sigma}, "max_tokens": 1000}
    asked = users(tokens=tokens, model="large", patience={"median": patience_s, "sigma": sigma})
    requests = arrivals(network(asked, seed=seed), 2 * HOUR_NS)
    z = np.log(requests.patience_ns / (patience_s * NANO)) / sigma
    assert stats.kstest(z, "norm").pvalue > ONE_IN_A_MILLION
    for lengths, median in ((requests.prompt_tok, prompt), (requests.output_tok, 90)):
        for length in (1, median // 2 + 1, median, 2 * median):
            share = stats.lognorm(sigma, scale=median).cdf(length + 0.5)
            assert stats.binomtest(int((lengths <= length).sum()), len(lengths), share).pvalue > ONE_IN_A_MILLION


def test_the_prompt_the_answer_and_the_patience_are_independent_of_each_other() -> None:
    requests = arrivals(network(users(model="large")))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        columns = (requests.prompt_tok, requests.output_tok, requests.patience_ns)
        assert stats.spearmanr(columns[one], columns[other]).pvalue > ONE_IN_A_MILLION


@given(prompt=st.integers(1, 10_000), output=st.integers(1, 10_000), max_tokens=st.integers(1, 4095))
def test_without_a_sigma_every_request_is_alike_up_to_the_context(prompt: int, output: int, max_tokens: int) -> None:
    tokens = {"prompt": prompt, "output": output, "max_tokens": max_tokens}
    requests = arrivals(network(users(tokens=tokens, model="small", patience="20s")), HOUR_NS)
    fits = min(prompt, 4095)
    assert set(requests.prompt_tok) == {fits}
    assert set(requests.max_tok) == {min(max_tokens, 4096 - fits)}
    assert set(requests.output_tok) == {min(output, max_tokens, 4096 - fits)}
    assert set(requests.patience_ns) == {20 * NANO}


def test_wild_lengths_are_cut_to_what_the_model_takes() -> None:
    tokens = {"prompt": {"median": 3000, "sigma": 5}, "output": {"median": 3000, "sigma": 5}, "max_tokens": 4000}
    requests = arrivals(network(users(tokens=tokens, model="small", patience={"median": "3650d", "sigma": 5})))
    assert (requests.prompt_tok.min(), requests.prompt_tok.max()) == (1, 4095)
    assert (requests.output_tok.min(), requests.output_tok.max()) == (1, 4000)
    assert (requests.prompt_tok + requests.max_tok).max() == 4096
    assert requests.patience_ns.max() == MAX_DURATION_NS


def test_a_population_without_patience_waits_for_ever() -> None:
    assert set(arrivals(network(users(patience=None)), HOUR_NS).patience_ns) == {NEVER_NS}


# A trace


def replay(path: str, scale: float = 1.0, **keys: Any) -> Config:
    return network(users(rhythm={"trace": path, "scale": scale}, **keys))


@given(cuts_ns=st.lists(st.integers(0, HOUR_NS), max_size=8), gaps_ns=st.lists(st.integers(0, HOUR_NS // 8), max_size=20))
def test_a_trace_plays_once_and_what_lies_beyond_the_horizon_is_counted(
    tmp_path_factory: pytest.TempPathFactory, cuts_ns: list[int], gaps_ns: list[int]
) -> None:
    times = np.datetime64("2024-05-10", "ns") + np.cumsum([0, *gaps_ns], dtype="timedelta64[ns]")
    lines = [f"{time},{row + 1},{2 * row + 1}" for row, time in enumerate(times)]
    config = replay(write(tmp_path_factory.getbasetemp(), HEADER, *lines))
    source = workload(config, config.users[0])
    blocks = []
    for cut_ns in [*sorted(cuts_ns), HOUR_NS]:
        source = pickle.loads(pickle.dumps(source))
        blocks.append(source.until(cut_ns))
    played = joined(blocks)
    assert same(played, arrivals(config, HOUR_NS))
    assert played.t_ns.tolist() == [t for t in np.cumsum([0, *gaps_ns]).tolist() if t < HOUR_NS]
    assert played.prompt_tok.tolist() == list(range(1, len(played.t_ns) + 1))
    assert played.output_tok.tolist() == list(range(1, 2 * len(played.t_ns), 2))
    assert source.remaining() == len(lines) - len(played.t_ns)
    source.until(NEVER_NS)
    assert source.remaining() == len(source.until(NEVER_NS).t_ns) == 0


@pytest.mark.parametrize("scale", [0.5, 2.0, 3.0])
def test_a_scaled_trace_plays_the_same_requests_at_that_many_times_the_rate(tmp_path: Path, scale: float) -> None:
    path = write(tmp_path, HEADER, GOOD, LATER, "2023-11-16 18:17:09.9799600,7,7")
    plain, scaled = arrivals(replay(path)), arrivals(replay(path, scale))
    assert scaled.t_ns.tolist() == [0, int(52_000_000 / scale), int(6 * NANO / scale)]
    assert same(plain, scaled._replace(t_ns=plain.t_ns))


def test_a_trace_slowed_beyond_all_time_keeps_its_order(tmp_path: Path) -> None:
    assert arrivals(replay(write(tmp_path, HEADER, GOOD, LATER, LATER), 1e-300), MAX_DURATION_NS).t_ns.tolist() == [0]


def test_all_requests_of_a_trace_ask_for_one_longest_answer_that_fits_beside_the_prompt(tmp_path: Path) -> None:
    """INV-4: what a request asks for tells nothing of its answer. Only one that will be rejected asks for what it needs."""
    rows = [f"2024-05-10 00:00:00,{prompt},{output}" for prompt, output in ((10, 1500), (10, 1), (4000, 90), (4000, 97))]
    requests = arrivals(replay(write(tmp_path, HEADER, *rows), model="small"))
    assert requests.max_tok.tolist() == [1500, 1500, 96, 97]
    assert requests.output_tok.tolist() == [1500, 1, 90, 97]


def test_a_bad_trace_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = replay(write(tmp_path, HEADER, LATER, GOOD))
    with pytest.raises(TraceError, match="line 3: TIMESTAMP must not be earlier"):
        workload(config, config.users[0])


def test_the_azure_trace_replays_whole_with_its_own_times_and_tokens_through_the_baseline() -> None:
    trace = read_trace(str(azure_2023_code()))
    text = (EXPERIMENTS / "baseline.yaml").read_text(encoding="utf-8")
    override = "users.chat.workload=" + json.dumps({"trace": str(azure_2023_code())})
    config = parse(text, "baseline.yaml", [override], base=str(EXPERIMENTS))
    source = workload(config, config.users[0])
    requests = joined([source.until(epoch * HOUR_NS) for epoch in range(1, 3)])
    assert source.remaining() == 0
    assert np.array_equal(requests.t_ns, trace.t_ns)
    assert np.array_equal(requests.prompt_tok, trace.prompt_tok)
    assert np.array_equal(requests.output_tok, trace.output_tok)
    assert set(requests.max_tok) == {4096}
