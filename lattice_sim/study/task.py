"""One replication: a network, changed as a point says, simulated with a seed of its own; what is recorded of it is a row."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lattice_core.chain.port import Refused, Reverted
from lattice_core.config import Config, ConfigError, revise
from lattice_core.records import Records
from lattice_core.streams import entity_key
from lattice_sim.founding import Founding, Foundings
from lattice_sim.rundir import COMPLETE, INTERRUPTED, Run
from lattice_sim.simulate import run

_FOUNDINGS = Foundings()
"""Of the last replications in this process. Which they were changes no result: a founding is the same whoever used it."""

type Row = dict[str, Any]
"""`status`, `reason` and a number, or None, for each metric."""


class Plan(NamedTuple):
    """What all replications of a study have in common."""

    base: Config
    metrics: tuple[str, ...]


class Task(NamedTuple):
    """A replication to be made: `changes` are of the plan's base, by dotted path."""

    point: int
    replication: int
    seed: int
    changes: Mapping[str, Any]


def replicate(plan: Plan, task: Task) -> Row:
    """Make a replication. A point that the config refuses fails, and says why; Ctrl-C raises KeyboardInterrupt."""
    try:
        config = revise(plan.base, {**task.changes, "seed": task.seed})
        done = run(config, founding=_founding(config))
    except ConfigError as error:
        return {"status": "refused", "reason": str(error), **dict.fromkeys(plan.metrics)}
    if done.status == INTERRUPTED:
        raise KeyboardInterrupt
    summary = done.summary() if done.status == COMPLETE else {}
    return {
        "status": done.status,
        "reason": done.manifest["reason"],
        **{metric: summary.get(metric) for metric in plan.metrics},
    }


def _founding(config: Config) -> Founding | None:
    """The network at t = 0, as an earlier replication in this process found it; None if a run must say why there is none."""
    try:
        return _FOUNDINGS.of(config)
    except (Reverted, Refused):
        return None


def seed_of(base_seed: int, replication: int, point: int | None = None) -> int:
    """The seed of a replication: at all points the same without `point`, and then the base's own for the first.

    Else it is 63 bits of BLAKE2b, so that replications have streams that are independent of each other.
    """
    if point is None:
        return base_seed if replication == 0 else entity_key(f"study/{base_seed}", replication)
    return entity_key(f"study/{base_seed}/{point}", replication)


def metric_names(config: Config) -> tuple[str, ...]:
    """The metrics that a run has one number of."""
    empty = Run.of(config, Records(config), COMPLETE).summary()
    return tuple(name for name, value in empty.items() if not isinstance(value, dict))
