"""Simulate a network from its config to its run directory."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lattice_core.batch import MAX_ENTRIES
from lattice_core.chain.port import Refused, Reverted
from lattice_core.config import Config, ConfigError, revise
from lattice_core.records import Records
from lattice_sim import networks
from lattice_sim.engine import StuckError
from lattice_sim.model import LatticeModel
from lattice_sim.rundir import COMPLETE, FAILED, INTERRUPTED, Draft, Journal, Run


def run(
    config: Config | str | Path,
    changes: Mapping[str, object] | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    journal: bool = False,
    on_epoch: Callable[[LatticeModel], object] = lambda model: None,
    clock: Callable[[], float] = lambda: 0.0,
    stoppable: AbstractContextManager[object] | None = None,
) -> Run:
    """Simulate a network to its end and return what it left; with `out`, write the run directory too.

    `config` is a Config, a YAML file or the name of a shipped network, `changes` other values by dotted path. With `journal`,
    `out` also holds every input event and decision. `on_epoch` sees the model after each epoch; `clock`, such as
    `time.perf_counter`, gives the manifest's `timings`; `stoppable` is entered while Ctrl-C may stop the simulation.

    Ctrl-C, a settlement that reverts and time that stands still end the run early: its status says so, and it holds the epochs done. Raises ConfigError
    for bad input, and for an `out` that exists unless `force` replaces it.
    """
    if not isinstance(config, Config):
        config = networks.read(config)
    if changes:
        config = revise(config, changes)
    nodes = sum(population.count for population in config.nodes)
    if nodes > MAX_ENTRIES:
        raise ConfigError(
            f"{config.name}: nodes: must be at most {MAX_ENTRIES} in all, which one settlement can pay, not {nodes}"
        )
    if journal and out is None:
        raise ConfigError("journal: needs an out to be written to")
    with Draft(out, force=force) if out is not None else nullcontext() as draft:
        with Journal(draft.path) if draft and journal else nullcontext() as lines:
            done = _simulate(config, lines, on_epoch, clock, stoppable or nullcontext())
        if draft:
            done.write(draft.path)
            draft.publish()
    return done


def _simulate(
    config: Config,
    journal: Journal | None,
    on_epoch: Callable[[LatticeModel], object],
    clock: Callable[[], float],
    stoppable: AbstractContextManager[object],
) -> Run:
    records, beyond_horizon, address_book, status, reason = Records(config), None, None, COMPLETE, ""
    began = ready = clock()
    try:
        with stoppable:
            sinks = (journal.event, journal.decision) if journal else (None, None)
            model = LatticeModel(config, journal=sinks[0], decisions=sinks[1])
            records, address_book, ready = model.records, model.bridge.network.book.address, clock()
            while model.running:
                observed = records.epochs
                try:
                    model.step()
                finally:
                    if journal and records.epochs > observed:
                        journal.mark()
                on_epoch(model)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except (Reverted, Refused, StuckError, ConnectionError) as error:
        status, reason = FAILED, str(error)
    else:
        beyond_horizon = model.engine.beyond_horizon()
    timings = {"set_up_s": ready - began, "epochs_s": clock() - ready}
    return Run.of(config, records, status, reason, beyond_horizon, timings, address_book)
