"""INV-6: the compiled engine does what the reference does, to the bit, in any network that Hypothesis thinks of."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from numba.core import event

from lattice_core.config.network import POLICIES
from lattice_core.directory import aligned
from lattice_core.events import BatchConfirmed, BatchFailed, CloseEpoch, Command, Dispatch, Event
from lattice_core.invariants import check
from lattice_core.nexus import Nexus
from lattice_core.records import Records
from lattice_core.state import FREE, REASONS
from lattice_core.units import MINUTE_NS, NANO, NEVER_NS
from lattice_sim.compiled import BLOCK, CompiledEngine
from lattice_sim.engine import StuckError
from lattice_sim.reference import ReferenceEngine
from lattice_sim.simulate import run
from tests.sim.any_network import EPOCH_NS, EPOCHS, Network, Plan, networks
from tests.sim.hostile import hostile
from tests.sim.served import plain, serve, start

EXAMPLES = 6 * settings().max_examples

_GROWN = {"requests": ("state", FREE), "legs": ("id", 0)}
"""Tables with free rows, and how one reads: engines make room at other times, so that free rows differ in number and links."""

_FREE_LISTS = ("free_request", "free_leg")


class Kernel(Nexus):
    """One that counts the legs that go on with an answer, of those that it tells of."""

    resumed = 0

    def handle(self, event: Event) -> Sequence[Command]:
        commands = super().handle(event)
        for command in commands:
            self.resumed += isinstance(command, Dispatch) and command.from_tok > 0
        return commands


def founded(kind: type[Any], network: Network) -> Any:
    """The network at t = 0 under that engine."""
    engine = kind(network.config, Kernel(network.config), Records(network.config))
    for fact in network.facts():
        engine.tell(fact)
    network.plan(engine._workloads)
    return engine


def kernel(nexus: Nexus) -> dict[str, bytes]:
    """Every bit of the kernel's tables that means something."""
    tables = {name: nexus.table(name) for name in nexus.state.tables()}
    for name, (column, free) in _GROWN.items():
        rows, used = tables[name], np.flatnonzero(tables[name][column] != free)
        rows["next_free"] = 0
        tables[name], tables[f"{name} in use"] = rows.view(np.uint8).reshape(len(rows), -1)[used], used
    for name in _FREE_LISTS:
        tables["clock"][name] = 0
    for name in [name for name in tables if name.endswith("_timers")]:
        times_ns = tables[name][len(tables[name]) // 2 :]
        tables[name] = np.flatnonzero(times_ns != NEVER_NS)
        tables[f"{name} due"] = times_ns[tables[name]]
    return {name: rows.tobytes() for name, rows in tables.items()}


def service(engine: Any) -> dict[str, bytes]:
    """The nodes, each brought up to now. By which number an engine knows a job again is its own affair."""
    engine.busy_ns()
    tables = engine.service.tables()
    tables["job"] = aligned(tables["job"])
    tables["job"]["leg"] = 0
    return {name: rows.tobytes() for name, rows in tables.items()}


def log(engine: Any) -> dict[str, bytes]:
    """All rows and histograms of the requests that have ended."""
    tables = engine.records.log.tables()
    tables["rows"] = tables["rows"][: tables["tally"][0]["kept"]]
    return {name: rows.tobytes() for name, rows in tables.items()}


def assert_equal(a: Any, b: Any) -> None:
    assert a.nexus.digest() == b.nexus.digest()
    for view in (lambda engine: kernel(engine.nexus), service, log):
        one, other = view(a), view(b)
        assert one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name]] == []
    assert a.now_ns == b.now_ns
    assert a.busy_ns().tolist() == b.busy_ns().tolist()
    assert a.system_ns().tolist() == b.system_ns().tolist()
    assert a.beyond_horizon() == b.beyond_horizon()


def settle(engine: Any, epoch: int) -> None:
    """The epoch ends: of its batches the chain takes one, refuses one, skips a user of one and loses one, in turn."""
    engine.tell(CloseEpoch(engine.now_ns, epoch))
    submissions, engine.submissions = engine.submissions, []
    for number, submission in enumerate(submissions):
        batch, t_ns = submission.batch, engine.now_ns
        if number % 4 == 1:
            engine.tell(BatchFailed(t_ns, batch.chunk, batch.epoch))
        elif number % 4 != 3:
            skipped = tuple(batch.users[:1].tolist()) if number % 4 == 2 else ()
            engine.tell(BatchConfirmed(t_ns, batch.chunk, batch.epoch, skipped))


HAPPENS = {
    "", "node_down", "bond_too_low", "boundary", "breaker_open", "newcomer_cap", "busy", "price_above_cap", "no_funds",
    "bad_score", "context_too_long", "deadline", "reservation_expired", "client_left", "node_lost", "node_refused",
}  # fmt: skip
"""How requests of honest users end: reasons, and none for the completed."""


TOO_DEAR = Network(
    plain(
        {
            "routing.policy": "tests.core.own_policy:dearest",
            "node.price": {"input": 0, "output": 100},
            "chain.epoch": f"{EPOCH_NS}ns",
            "sim.epochs": EPOCHS,
        }
    ),
    [Plan(seed=1, count=20, grid_ns=NANO // 10, patience_ns=NEVER_NS)],
    boastful=False,
)
"""Its policy has no finite score for any offer."""


FRAIL = Network(
    plain(
        {
            "node.count": 8,
            "node.slots": 4,
            "node.queue": 8,
            "node.network_delay": "3ms",
            "node.failures": {"mtbf": "1s", "mttr": "500ms"},
            "routing.retries": 16,
            "routing.breaker.failures": 1_000,
            "people.deadline": "8s",
            "chain.epoch": f"{EPOCH_NS}ns",
            "sim.epochs": EPOCHS,
        }
    ),
    [Plan(seed=1, count=300, grid_ns=NANO // 10, patience_ns=2 * NANO)],
    boastful=False,
)
"""Its nodes break each second, so that an answer goes from one to the next."""


PUNCTUAL = Network(
    plain(
        {
            "node.count": 12,
            "node.slots": 1,
            "node.queue": 0,
            "node.hardware": {"a": "10ms", "b": 0, "prefill_tok_s": 1_000},
            "node.network_delay": 0,
            "people.deadline": "100ms",
            "chain.epoch": f"{EPOCH_NS}ns",
            "sim.epochs": EPOCHS,
        }
    ),
    [Plan(seed=1, count=300, grid_ns=NANO // 10, patience_ns=NEVER_NS)],
    boastful=False,
)
"""Its prompts of 100 tokens are read, and some answers end, at the very nanosecond at which their time is up."""


def test_inv_6_both_engines_leave_the_same_state_to_the_bit() -> None:
    reasons, policies = np.zeros(len(REASONS), np.int64), set()
    resumed: list[int] = []

    @settings(max_examples=EXAMPLES)
    @given(network=networks())
    @example(network=TOO_DEAR)
    @example(network=FRAIL)
    @example(network=PUNCTUAL)
    def both(network: Network) -> None:
        reference, compiled = founded(ReferenceEngine, network), founded(CompiledEngine, network)
        for epoch in range(EPOCHS):
            compiled.run_until(epoch * EPOCH_NS + EPOCH_NS // 3)  # where it is cut makes no difference
            for engine in (reference, compiled):
                engine.run_until((epoch + 1) * EPOCH_NS)
                settle(engine, epoch)
            assert_equal(reference, compiled)
        check(compiled.nexus)
        reasons[:] += compiled.records.log.reasons
        policies.add(network.config.routing.policy)
        resumed.append(reference.nexus.resumed)

    both()
    assert max(resumed) > 200, "answers go on at another node, again and again"
    assert {REASONS[reason] for reason in np.flatnonzero(reasons)} == HAPPENS
    assert policies > set(POLICIES)


def test_inv_6_holds_of_a_crowd_for_which_both_engines_must_make_room() -> None:
    """More in flight and on the way than tables have rows at first, and more arrivals than a block holds."""
    config = plain(
        {
            "node.count": 3,
            "node.slots": 64,
            "node.queue": 700,
            "node.failures": {"mtbf": "5s", "mttr": "1s"},
            "node.network_delay": "30ms",
            "people.retries": 2,
            "routing.breaker.failures": 1_000,
        }
    )
    network = Network(config, [Plan(seed=1, count=6_000, grid_ns=NANO, patience_ns=20 * NANO)], boastful=True)
    reference, compiled = founded(ReferenceEngine, network), founded(CompiledEngine, network)
    for epoch in range(EPOCHS):
        for engine in (reference, compiled):
            engine.run_until((epoch + 1) * EPOCH_NS)
            settle(engine, epoch)
        assert_equal(reference, compiled)
    assert compiled.nexus.count("arrived") > 2 * BLOCK
    assert compiled.nexus.count("in_flight") > 512


def test_inv_6_runs_of_both_engines_with_the_chain_write_the_same_files(tmp_path: Path) -> None:
    """Every Parquet file, byte by byte."""
    for engine in ("reference", "compiled"):
        config = hostile({"sim.engine": engine, "routing.policy": "sticky", "sim.epochs": 2})
        assert run(config, out=tmp_path / engine).status == "complete"
    reference, compiled = (
        {path.name: path.read_bytes() for path in (tmp_path / engine).glob("*.parquet")} for engine in ("reference", "compiled")
    )
    assert reference.keys() == compiled.keys() > {"requests.parquet", "epochs.parquet", "nodes.parquet"}
    assert [name for name in reference if reference[name] != compiled[name]] == []


OWN_POLICY = """
from lattice_core.routing import policy

@policy(candidates=5)
def own(o, r, w):
    return o.quality * 0.{seed} - o.load
"""


def test_a_new_policy_recompiles_nothing_of_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop calls a score through its address: of all of numba's functions, none gets another signature."""
    serve(plain({}), MINUTE_NS, CompiledEngine)
    monkeypatch.syspath_prepend(tmp_path)
    with event.install_recorder("numba:compile") as recorder:
        for seed in (1, 2):
            (tmp_path / f"own_{seed}.py").write_text(OWN_POLICY.format(seed=seed))
            _, _, served = serve(plain({"routing.policy": f"own_{seed}:own"}), MINUTE_NS, CompiledEngine)
            assert (served["outcome"] == "completed").any()
        assert recorder.buffer == []
        numba.njit(lambda x: x + 1)(1)
        assert recorder.buffer, "a compilation would have been seen"


# Bad input

OVERRUN = {
    "node.count": 3,
    "node.slots": 1,
    "node.queue": 1,
    "people.workload.poisson.requests_per_day": 10_000_000,
    "people.tokens.output": 500,
    "people.retries": 2,
}


@pytest.mark.parametrize("engine", [ReferenceEngine, CompiledEngine])
def test_full_queues_everywhere_end_in_rejections_that_say_so(engine: type[Any]) -> None:
    """1,000 requests a second for three nodes with room for six: whoever is not served is told at once."""
    _, nexus, served = serve(plain(OVERRUN), 20 * NANO, engine)
    check(nexus)
    rejected = served[served["outcome"] == "rejected"]
    assert len(rejected) > 1_000
    assert set(rejected["reason"]) == {"busy"}
    assert (rejected["end_ns"] == rejected["arrival_ns"]).all()
    assert nexus.count("completed") >= 6


STILL = {
    "node.network_delay": 0,
    "node.failures": {"mtbf": "1s", "mttr": "1s"},
    "routing.breaker": {"failures": 1, "open": "1ms", "successes": 1_000_000},
    "reputation.probe_interval": "100ms",
}
"""A half-open breaker asks for a million good probes, each of which comes back at once."""


def test_time_that_stands_still_is_noticed_and_named_by_both_engines() -> None:
    said = set()
    for kind in (ReferenceEngine, CompiledEngine):
        engine, _ = start(plain(STILL), kind)
        with pytest.raises(StuckError) as error:
            engine.run_until(MINUTE_NS)
        said.add(str(error.value))
    (line,) = said
    assert re.fullmatch(r"time stands still at \d+ ns: again and again a reply reaches the Nexus \(probe of node 0\)", line)


def test_a_run_whose_time_stands_still_fails_in_one_line() -> None:
    done = run(plain({**STILL, "sim.epochs": 2}))
    assert done.status == "failed"
    assert "time stands still" in done.manifest["reason"]
    assert "\n" not in done.manifest["reason"]
