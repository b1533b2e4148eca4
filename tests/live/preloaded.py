"""What `lattice up` imports, for processes that are forked from one that has it."""

import uvloop

import lattice_cli.main
import lattice_cli.model
import lattice_core.chain.pyevm
import lattice_core.founding
import lattice_live.network
import lattice_live.server
import lattice_sim.rundir
import tests.live.networks

__all__ = ["lattice_cli", "lattice_core", "lattice_live", "lattice_sim", "tests", "uvloop"]
