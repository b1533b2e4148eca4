"""Simulate a network from its config to its run directory."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lattice_core.chain.port import Refused, Reverted
from lattice_core.config import Config, ConfigError, revise
from lattice_core.records import Records
from lattice_sim import networks
from lattice_sim.checkpoint import CHECKPOINT, Checkpoint
from lattice_sim.engine import StuckError
from lattice_sim.founding import Founding
from lattice_sim.model import LatticeModel
from lattice_sim.rundir import COMPLETE, FAILED, INTERRUPTED, Draft, Journal, Run


def run(
    config: Config | str | Path,
    changes: Mapping[str, object] | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    journal: bool = False,
    founding: Founding | None = None,
    keep_every: int = 0,
    on_epoch: Callable[[LatticeModel], object] = lambda model: None,
    clock: Callable[[], float] = lambda: 0.0,
    stoppable: AbstractContextManager[object] | None = None,
) -> Run:
    """Simulate a network to its end and return what it left; with `out`, write the run directory too.

    `config` is a Config, a YAML file or the name of a shipped network, `changes` other values by dotted path. With `journal`,
    `out` also holds every input event and decision, and the reference engine serves. `founding` is the network at t = 0, if it
    has been founded already. `on_epoch` sees the model after each
    epoch; `clock`, such as `time.perf_counter`, gives the manifest's `timings`; `stoppable` is entered while Ctrl-C may stop
    the simulation.

    Ctrl-C, a settlement that reverts and time that stands still end the run early: its status says so, and it holds the epochs
    done. After Ctrl-C `out` has a checkpoint too, for `resume`, unless engine or chain cannot be saved. With `keep_every` there
    is one after each so many epochs, should the process be killed. Raises ConfigError for bad input, and for an `out` that
    exists unless `force` replaces it.
    """
    if not isinstance(config, Config):
        config = networks.read(config)
    if changes:
        config = revise(config, changes)
    if (journal or keep_every) and out is None:
        raise ConfigError(f"{'journal' if journal else 'checkpoint'}: needs an out to be written to")
    with Draft(out, force=force) if out is not None else nullcontext() as draft:
        keeper = _Keeper(draft, keep_every)
        with Journal(draft.path) if draft and journal else nullcontext() as lines:
            done = _simulate(config, None, founding, lines, keeper, on_epoch, clock, stoppable or nullcontext())
        return _published(done, draft, keeper)


def resume(
    checkpoint: Checkpoint | str | Path,
    changes: Mapping[str, object] | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    keep_every: int = 0,
    on_epoch: Callable[[LatticeModel], object] = lambda model: None,
    clock: Callable[[], float] = lambda: 0.0,
    stoppable: AbstractContextManager[object] | None = None,
) -> Run:
    """Go on from a checkpoint: to just what the run would have left had it not stopped or, with `changes`, to another future.

    `checkpoint` may be a file, or a run directory that has one, in the place of which `out` and `force` put the whole run.
    `checkpoint.FREE` says what can change; the rest is as for `run`.
    """
    model = LatticeModel.resume(checkpoint, **dict(changes or {}))
    with Draft(out, force=force) if out is not None else nullcontext() as draft:
        keeper = _Keeper(draft, keep_every)
        done = _simulate(model.config, model, None, None, keeper, on_epoch, clock, stoppable or nullcontext())
        return _published(done, draft, keeper)


class _Keeper:
    """The last checkpoint of a run: in memory, so that Ctrl-C in the middle of an epoch finds it, and at times on disk."""

    def __init__(self, draft: Draft | None, every: int) -> None:
        """Without a draft it keeps nothing; with `every` = 0, nothing on disk."""
        self._draft, self._every = draft, every
        self.last: Checkpoint | None = None

    def see(self, model: LatticeModel) -> None:
        """An epoch has ended, or the first is to begin. ConfigError if there must be a checkpoint and cannot."""
        if self._draft is None:
            return
        try:
            self.last = model.checkpoint()
        except ConfigError:
            if self._every:
                raise
            self._draft = None
        if self._draft and self.last and self._every and model.running and model.epoch and model.epoch % self._every == 0:
            self._draft.keep(CHECKPOINT, self.last.to_bytes())


def _simulate(
    config: Config,
    model: LatticeModel | None,
    founding: Founding | None,
    journal: Journal | None,
    keeper: _Keeper,
    on_epoch: Callable[[LatticeModel], object],
    clock: Callable[[], float],
    stoppable: AbstractContextManager[object],
) -> Run:
    """Run `model`, or a new one of `config`, to its end."""
    beyond_horizon, status, reason = None, COMPLETE, ""
    began = ready = clock()
    try:
        with stoppable:
            if model is None:
                sinks = (journal.event, journal.decision) if journal else (None, None)
                model = LatticeModel(config, journal=sinks[0], decisions=sinks[1], founding=founding)
            ready = clock()
            keeper.see(model)
            while model.running:
                observed = model.records.epochs
                try:
                    model.step()
                finally:
                    if journal and model.records.epochs > observed:
                        journal.mark()
                keeper.see(model)
                on_epoch(model)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except (Reverted, Refused, StuckError, ConnectionError) as error:
        status, reason = FAILED, str(error)
    else:
        beyond_horizon = model.engine.beyond_horizon()
    timings = {"set_up_s": ready - began, "epochs_s": clock() - ready}
    engine = "reference" if journal else None
    if model is None:
        return Run.of(config, Records(config), status, reason, timings=timings, engine=engine)
    book, branches = model.bridge.network.book.address, model.branches
    return Run.of(config, model.records, status, reason, beyond_horizon, timings, book, engine, branches)


def _published(done: Run, draft: Draft | None, keeper: _Keeper) -> Run:
    if draft:
        done.write(draft.path)
        if done.status == INTERRUPTED and keeper.last:
            (draft.path / CHECKPOINT).write_bytes(keeper.last.to_bytes())
        draft.publish()
    return done
