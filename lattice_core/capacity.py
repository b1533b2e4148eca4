"""What a config leads one to expect: tokens asked for and tokens that can be served, by hour of the day.

    utilisation(h) = offered output tokens/s ÷ Σ over nodes up of slots/(a + b·slots)

Expectations in closed form; nothing is drawn. Prefill is left out on both sides.
"""

import math
from itertools import pairwise

from lattice_core.config.network import Availability, Config, Diurnal, Modulated, NodePopulation, TokenLaw, UserPopulation
from lattice_core.units import DAY_NS, HOUR_NS, to_s


def mean_tokens(law: TokenLaw, most: int) -> float:
    """Mean of a length that is cut off at `most` tokens."""
    if law.quantiles is not None:
        points = list(zip(law.quantiles.share, law.quantiles.tok, strict=True))
        return sum((b[0] - a[0]) * _mean_between(a[1], b[1], most) for a, b in pairwise(points))
    assert law.median is not None  # else the config is refused
    if law.sigma == 0:
        return float(min(law.median, most))
    z = math.log(most / law.median) / law.sigma
    below = law.median * math.exp(law.sigma * law.sigma / 2) * _normal_cdf(z - law.sigma)
    return below + most * _normal_cdf(-z)


def _mean_between(low: float, high: float, most: int) -> float:
    """Mean of a length cut off at `most`, whose logarithm is uniform from `low` to `high`."""
    if most <= low or low == high:
        return min(low, float(most))
    top = min(high, most)
    return (top - low + most * math.log(high / top)) / math.log(high / low)


def up_share(nodes: NodePopulation, hour: float) -> float:
    """Expected share of a population that is there and not broken at an hour of the day, 0 to 24."""
    share = _there(nodes.availability, hour)
    if nodes.failures is not None:
        share *= nodes.failures.mtbf_ns / (nodes.failures.mtbf_ns + nodes.failures.mttr_ns)
    return share


def offered_output_tok_s(users: UserPopulation, model: str, hour: int) -> float:
    """Output tokens that a population asks of `model` per second in an hour of the day, 0 to 23.

    Raises ValueError for a trace, whose load does not stand in the config.
    """
    if model not in users.model:
        return 0.0
    rhythm, factor = users.workload.rhythm, users.workload.scale / users.workload.stretch
    if rhythm is None:
        raise ValueError(f"users.{users.name}.workload: a trace's load does not stand in the config")
    requests_per_s = rhythm.requests_per_day / to_s(DAY_NS) * factor
    if isinstance(rhythm, Modulated):
        requests_per_s *= 24 * rhythm.hourly[hour] / sum(rhythm.hourly)
    assert users.output is not None  # a config with a synthetic workload and no output length is refused
    share = users.model[model] / sum(users.model.values())
    return requests_per_s * share * mean_tokens(users.output, users.tokens.max_tokens)


def capacity_output_tok_s(nodes: NodePopulation, model: str, hour: int) -> float:
    """Output tokens of `model` that a population is expected to be able to serve per second in an hour of the day, 0 to 23."""
    if model not in nodes.models:
        return 0.0
    return nodes.count * up_share(nodes, hour + 0.5) * nodes.profile(model).output_tok_s(nodes.slots)


def utilisation(config: Config, model: str) -> list[float]:
    """24 expected utilisations of the nodes that serve `model`, midnight first; infinite where no node is up."""
    by_hour = []
    for hour in range(24):
        offered = sum(offered_output_tok_s(users, model, hour) for users in config.users)
        capacity = sum(capacity_output_tok_s(nodes, model, hour) for nodes in config.nodes)
        by_hour.append(offered / capacity if capacity else math.inf)
    return by_hour


def _there(availability: Availability, hour: float) -> float:
    if availability.diurnal is not None:
        return _in_its_day(availability.diurnal, hour)
    if availability.on_ns is not None and availability.off_ns is not None:
        return availability.on_ns / (availability.on_ns + availability.off_ns)
    return 1.0


def _in_its_day(day: Diurnal, hour: float) -> float:
    """Probability that start + shift ≤ t < start + shift + up, around the clock, shift uniform in ± jitter."""

    def started(since_ns: float) -> float:
        if day.jitter_ns == 0:
            return float(since_ns >= 0)
        return min(1.0, max(0.0, (since_ns + day.jitter_ns) / (2 * day.jitter_ns)))

    since_ns = hour * HOUR_NS - day.start_ns
    turns = [since_ns + turn * DAY_NS for turn in (-2, -1, 0, 1, 2, 3)]
    return sum(started(turn) - started(turn - day.up_ns) for turn in turns)


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
