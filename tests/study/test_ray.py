"""Ray: two nodes on this machine, of which one is lost in the middle; rows as in process, and nothing left behind."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lattice_cli.main import main
from lattice_core.config import ConfigError
from lattice_sim.study import executors
from lattice_sim.study import ray as ray_workers
from lattice_sim.study.executors import Executor, executor
from lattice_sim.study.sweep import points_of, tasks_of
from lattice_sim.study.task import Plan, Row, Task
from tests.require import require
from tests.study.asked import study, written

type Asked = tuple[Plan, list[Task]]


def children() -> set[int]:
    """The processes that this one has started, and theirs."""
    import psutil

    return {process.pid for process in psutil.Process().children(recursive=True)}


def gone(pids: set[int]) -> bool:
    """Whether these processes end, if they are given a while."""
    import psutil

    for _ in range(100):
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.1)
    return False


def workers_at_work() -> list[int]:
    """Ray's workers that have made a replication."""
    import psutil

    return [child.pid for child in psutil.Process().children(recursive=True) if "ray::_replicate" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    require(find_spec("ray") is not None, "ray")
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        from ray.cluster_utils import Cluster

        before = children()
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            yield nodes
        finally:
            started = children() - before
            nodes.shutdown()
            assert gone(started)


@pytest.fixture(scope="module")
def workers(cluster: Any) -> Iterator[Executor]:
    with executor("ray", address=cluster.address) as joined:
        yield joined


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    one = study(tmp_path_factory.mktemp("study"), replications=12)
    return Plan(one.base, tuple(one.asked.recorded)), tasks_of(one.asked, one.base.seed, points_of(one), 12)


@pytest.fixture(scope="module")
def in_process(asked: Asked) -> list[tuple[Any, Row]]:
    return by_task(executor("inprocess"), asked)


def by_task(workers: Executor, asked: Asked) -> list[tuple[Any, Row]]:
    return sorted(((task[:3], row) for task, row in workers.run(*asked)), key=lambda ended: ended[0])


def test_a_sweep_on_a_ray_of_its_own_leaves_the_same_bytes_and_no_process(tmp_path: Path) -> None:
    require(find_spec("ray") is not None, "ray")
    path, before = written(tmp_path), children()
    for name in ("inprocess", "ray"):
        assert main(["sweep", str(path), "--executor", name, "--workers", "1", "--out", str(tmp_path / name)]) == 0
    left, right = ((tmp_path / name / "results.parquet").read_bytes() for name in ("inprocess", "ray"))
    assert left == right
    assert gone(children() - before)


def test_a_lost_node_and_a_killed_worker_cost_no_row_and_change_none(
    cluster: Any, workers: Executor, asked: Asked, in_process: list[tuple[Any, Row]]
) -> None:
    second = cluster.add_node(num_cpus=1)
    ended: list[tuple[Any, Row]] = []
    for number, (task, row) in enumerate(workers.run(*asked), 1):
        ended.append((task[:3], row))
        if number == 4:
            cluster.remove_node(second, allow_graceful=False)
        if number == 12:
            for pid in workers_at_work():
                os.kill(pid, signal.SIGKILL)
    assert sorted(ended, key=lambda one: one[0]) == in_process


def test_a_task_whose_worker_always_dies_ends_the_study_in_one_line(
    workers: Executor, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "MOST_TRIES", 2)
    plan, tasks = asked
    deadly = [tasks[0]._replace(changes=Deadly(tasks[0].changes))]
    with pytest.raises(ConfigError, match="died 2 times; is there memory enough") as said:
        list(workers.run(plan, deadly))
    assert "\n" not in str(said.value)


class Deadly(dict[str, Any]):
    """Changes that end whoever looks at them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "--address: must be HOST:PORT of a Ray cluster, or auto, not nonsense"),
        ("ray://127.0.0.1:10001", "--address: must be HOST:PORT of a Ray cluster, or auto, not ray://127.0.0.1:10001"),
        ("127.0.0.1:1", "--address 127.0.0.1:1: no Ray cluster answers: Connection refused"),
    ],
)
def test_an_address_at_which_is_no_cluster_is_one_line_and_nothing_is_written(
    address: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require(find_spec("ray") is not None, "ray")
    out = tmp_path / "out"
    assert main(["sweep", str(written(tmp_path)), "--executor", "ray", "--address", address, "--out", str(out)]) == 2
    assert capsys.readouterr().err.rstrip().endswith(said)
    assert not out.exists()


def test_a_server_that_is_not_rays_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    require(find_spec("ray") is not None, "ray")
    monkeypatch.setattr(ray_workers, "_ANSWER_S", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"--address {address}: no Ray cluster answers within 0.5 s"):
            executor("ray", address=address)
