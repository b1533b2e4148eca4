"""Imported once by the process that workers are forked from: all that a replication needs, compiled.

Two processes that filled numba's cache at once could swap the code of two signatures of a function.
"""

from importlib.util import find_spec

import lattice_sim.study.task  # noqa: F401
from lattice_sim.model import LatticeModel
from lattice_sim.networks import read

_BACKEND = "revm" if find_spec("pyrevm") else "py-evm"

LatticeModel(read("local.yaml", [f"chain.backend={_BACKEND}"])).step()
