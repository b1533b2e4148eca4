"""Lattice under simulated time: `LatticeModel` is a network as a Mesa model, `run` simulates one and `resume`
goes on with it, `load_run` reads one back."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lattice_sim.checkpoint import Checkpoint
    from lattice_sim.model import LatticeModel
    from lattice_sim.rundir import Run, load_run
    from lattice_sim.simulate import resume, run
    from lattice_sim.study.store import load_study

__all__ = ["Checkpoint", "LatticeModel", "Run", "load_run", "load_study", "resume", "run"]

_HOMES = {
    "Checkpoint": "lattice_sim.checkpoint",
    "LatticeModel": "lattice_sim.model",
    "Run": "lattice_sim.rundir",
    "load_run": "lattice_sim.rundir",
    "load_study": "lattice_sim.study.store",
    "resume": "lattice_sim.simulate",
    "run": "lattice_sim.simulate",
}


def __getattr__(name: str) -> Any:
    """What `from lattice_sim import …` gives, imported when it is first asked for: Mesa and pandas take a second."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
