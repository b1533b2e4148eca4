"""What one more node would earn: the network is simulated with it, once a seed, and its electricity is taken off."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lattice_core.config import Config, ConfigError, revise
from lattice_core.units import DAY_NS, HOUR_NS, to_lai
from lattice_sim.rundir import Run
from lattice_sim.simulate import run

NODE = "estimated"
"""Name of the population that the node makes."""

CONFIDENCE = 0.95


class Power(NamedTuple):
    """What the node's machine draws, and what that costs. In between it is in proportion to the share of slots taken."""

    idle_w: float
    busy_w: float
    lai_per_kwh: float


class Day(NamedTuple):
    """One simulated future, per day of it."""

    seed: int
    revenue_lai: float
    """The operator's part of what was settled for the node, as large a part as all operators had."""
    electricity_lai: float
    answers: float
    utilisation: float
    """Share of the node's slots that were taken."""

    @property
    def net_lai(self) -> float:
        return self.revenue_lai - self.electricity_lai


class Estimate(NamedTuple):
    """The futures, and the mean of what they leave with its interval by Student's t; one future has none."""

    days: list[Day]
    mean_lai: float
    low_lai: float | None
    high_lai: float | None


def with_node(config: Config, hardware: Mapping[str, Any] | str, model: str | None = None, **other: Any) -> Config:
    """`config` with one more node. What `other` does not say (slots, queue, price, …) is as its first population of that model.

    `model` is the only one of the config if it is not given. Raises ConfigError.
    """
    served = [*config.models] if model is None else [model]
    if len(served) != 1 or served[0] not in config.models:
        raise ConfigError(f"{config.name}: --model: must be one of {', '.join(config.models)}, not {model}")
    document = config.document()
    like = next((nodes for nodes in document["nodes"] if served[0] in nodes["models"]), None)
    if like is None:
        raise ConfigError(f"{config.name}: nodes: must serve {served[0]}, or what a node asks and puts up is not known")
    alone = {"name": NODE, "count": 1, "models": served, "hardware": hardware, "availability": "always", "failures": None}
    given = {key: value for key, value in other.items() if value is not None}
    return revise(config, {"nodes": [*document["nodes"], {**like, **alone, **given}]})


def estimate(config: Config, power: Power, seeds: Sequence[int], on_run: Callable[[], object] = lambda: None) -> Estimate:
    """Simulate a config that `with_node` made, once for each of `seeds`; `on_run` is called after each. Raises ConfigError."""
    days = []
    for seed in seeds:
        done = run(revise(config, {"seed": seed}))
        if done.status != "complete":
            raise ConfigError(f"{config.name}: a simulated day must run to its end: {done.manifest['reason']}")
        days.append(_day(done, seed, power))
        on_run()
    net = [day.net_lai for day in days]
    mean = math.fsum(net) / len(net)
    half = half_width(net)
    return Estimate(days, mean, None if half is None else mean - half, None if half is None else mean + half)


def half_width(values: Sequence[float]) -> float | None:
    """Half of the mean's interval at CONFIDENCE, by Student's t; None for less than two values."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * math.sqrt(variance / n)


def _day(done: Run, seed: int, power: Power) -> Day:
    rows = done.nodes[done.nodes["population"] == NODE]
    summary, total_ns = done.summary(), int(done.epochs["end_ns"].max())
    days = total_ns / DAY_NS
    settled_nlai = int(rows["settled_nlai"].sum() + rows["settled_faucet_nlai"].sum())
    operators = summary["operators_nlai"] / summary["settled_nlai"] if summary["settled_nlai"] else 0.0
    taken = float(rows["busy_slot_ns"].sum()) / (total_ns * int(rows["slots"].iloc[0]))
    mean_w = power.idle_w + (power.busy_w - power.idle_w) * taken
    return Day(
        seed,
        revenue_lai=to_lai(settled_nlai) * operators / days,
        electricity_lai=mean_w / 1_000 * (DAY_NS / HOUR_NS) * power.lai_per_kwh,
        answers=int(rows["legs_done"].sum()) / days,
        utilisation=taken,
    )
