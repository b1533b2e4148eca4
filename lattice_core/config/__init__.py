"""The config: one YAML that describes a network, read strictly.

`network` holds the sections, `quantities` the units they are written in, `consistency` what no single section can see, `text`
the strict YAML, and `document` the way from text to `Config`.
"""

from lattice_core.config.document import parse, revise, schema
from lattice_core.config.network import Config, Model, NodePopulation, UserPopulation
from lattice_core.config.text import ConfigError

__all__ = ["Config", "ConfigError", "Model", "NodePopulation", "UserPopulation", "parse", "revise", "schema"]
