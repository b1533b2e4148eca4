"""The same rows wherever replications are made, whatever becomes of those who make them."""

import os
import signal
from pathlib import Path

import pytest

from lattice_core.config import ConfigError
from lattice_sim import run
from lattice_sim.study.executors import MOST_TRIES, InProcess, Processes, Tries
from lattice_sim.study.sweep import points_of, tasks_of
from lattice_sim.study.task import Plan, Task, replicate, seed_of
from tests.study.asked import study


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Plan, list[Task]]:
    found = study(tmp_path)
    plan = Plan(found.base, tuple(found.asked.metrics))
    return plan, tasks_of(found.asked, found.base.seed, points_of(found), 3)


def test_a_row_holds_what_a_run_of_its_config_and_seed_measures(asked: tuple[Plan, list[Task]]) -> None:
    plan, tasks = asked
    task = tasks[3]
    alone = run(plan.base, {**task.changes, "seed": task.seed}).summary()
    for _ in range(2):  # also when an earlier replication has left something behind
        row = replicate(plan, task)
        assert (row["status"], {name: row[name] for name in plan.metrics}) == (
            "complete",
            {name: alone[name] for name in plan.metrics},
        )


def test_processes_make_the_rows_that_are_made_here_though_one_is_killed(asked: tuple[Plan, list[Task]]) -> None:
    plan, tasks = asked
    rows, killed = {}, 0
    with Processes(2) as workers:
        for task, row in workers.run(plan, tasks):
            rows[task[:2]] = row
            if len(rows) == 2 and workers._pool is not None:
                killed = next(iter(workers._pool._processes))
                os.kill(killed, signal.SIGKILL)
    assert killed
    assert rows == {task[:2]: row for task, row in InProcess().run(plan, tasks)}


def test_a_task_that_kills_whoever_makes_it_is_named() -> None:
    tries, task = Tries(), Task(4, 2, 1, {})
    for _ in range(MOST_TRIES - 1):
        tries.lose(task)
    with pytest.raises(ConfigError, match=f"replication 2 of point 4: the process that made it died {MOST_TRIES} times"):
        tries.lose(task)


def test_a_point_that_makes_no_network_says_so_in_its_row(asked: tuple[Plan, list[Task]]) -> None:
    plan, tasks = asked
    row = replicate(plan, tasks[0]._replace(changes={"routing.weights.price": -1}))
    assert (row["status"], row["completed_share"]) == ("refused", None)
    assert "routing.weights.price" in row["reason"]


def test_common_seeds_are_those_of_the_base_and_others_are_all_different() -> None:
    assert seed_of(7, 0) == 7
    seeds = [seed_of(7, r) for r in range(50)] + [seed_of(7, r, point) for point in range(5) for r in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
