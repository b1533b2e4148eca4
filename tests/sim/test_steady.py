"""A run in its steady state: its warm-up is left out, and its batches say how sure its means are."""

from dataclasses import replace

import pytest

from lattice_sim import networks, run, steady
from lattice_sim.rundir import Run

EPOCHS = 60


@pytest.fixture(scope="module")
def done() -> Run:
    changes = [f"sim.epochs={EPOCHS}", "sim.horizon=steady", "chain.backend=revm", "chain.epoch=10m"]
    return run(networks.read("local.yaml", changes))


def as_a_whole(done: Run) -> Run:
    config = done.manifest["config"]
    sim = config["sim"] | {"horizon": "terminating"}
    return replace(done, manifest=done.manifest | {"config": config | {"sim": sim}})


def warmed_up_after(done: Run, epochs: int) -> Run:
    """The run as if so many epochs had been crowded at first, and then all had been alike."""
    crowded = [1_000.0] * epochs + [1.0] * (EPOCHS - epochs)
    return replace(done, epochs=done.epochs.assign(mean_in_flight=crowded))


def test_a_run_without_warm_up_has_the_figures_of_the_whole(done: Run) -> None:
    flat = warmed_up_after(done, 0)
    assert steady.warm_up_epochs(flat.epochs) == 0
    whole, behind = as_a_whole(flat).summary(), flat.summary()
    assert {name for name in whole if whole[name] != behind[name]} == {"gas"}  # without what founding the network took


def test_what_arrived_in_the_warm_up_is_left_out(done: Run) -> None:
    late = warmed_up_after(done, 10)
    assert steady.warm_up_epochs(late.epochs) == 10
    summary = late.summary()
    assert summary["arrived"] == done.epochs["arrived"][10:].sum()
    assert summary["horizon_s"] == (EPOCHS - 10) * 600
    assert summary["gas"] == done.transactions.loc[done.transactions["epoch"] >= 10, "gas"].sum()
    assert summary["mean_in_flight"] == 1.0


def test_intervals_are_of_twenty_batches_of_whole_epochs(done: Run) -> None:
    found = steady.intervals(warmed_up_after(done, 10))
    length = (EPOCHS - 10) // 20
    assert {interval.n for interval in found.values()} == {20}
    kept = done.epochs[EPOCHS - 20 * length :]
    assert found["arrivals_per_s"].mean == pytest.approx(kept["arrived"].sum() / (20 * length * 600))
    assert not set(steady.OF_ALL) & found.keys()


def test_too_few_epochs_have_no_interval(done: Run) -> None:
    assert steady.intervals(replace(done, epochs=done.epochs[:19])) == {}
