"""Imported once by the process that workers are forked from: all that a replication needs."""

import lattice_sim.compiled
import lattice_sim.study.task  # noqa: F401
