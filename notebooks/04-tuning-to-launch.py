# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a question to a network that can be launched
#
# **Summary.** A study file asks which routing serves users sooner while revenue stays spread. The search finds a front, one
# trial of it is chosen by a stated rule, and `tuned.yaml` is a network that `lattice check`, `lattice run` and `lattice up`
# accept.
#
# **Question.** Which values should the network begin with?
#
# **Assumptions.** So few trials that it runs within a minute: the values are not to be used, `experiments/studies` holds a
# search that is long enough. The defaults stand by their hash before the study is written; what is chosen is judged by seeds
# and scenarios that the search has not seen.

# %%
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import yaml
from IPython.display import SVG

from lattice_cli.main import main
from lattice_sim import load_study, networks

folder = Path(mkdtemp())

# %% [markdown]
# ## The question, as a file

# %%
study = {
    "version": 1,
    "tune": {
        "name": "small",
        "question": "Which routing serves users sooner while revenue stays spread?",
        "base": "baseline.yaml",
        "defaults_sha256": networks.read("baseline.yaml").sha256()[:8],
        "set": {"chain.backend": "revm", "sim.epochs": 3, "sim.start_hour": 18},
        "factors": {
            "routing.weights.price": {"from": 0, "to": 4},
            "routing.weights.latency": {"from": 0.25, "to": 8, "scale": "log"},
        },
        "objectives": [{"minimise": "ttft_p95_s"}, {"minimise": "revenue_gini"}],
        "constraints": [{"completed_share": {"least": 0.85}}],
        "trials": 15,
        "replications": 1,
        "held_out": {"seeds": 4},
    },
}
(folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
print((folder / "study.yaml").read_text())

# %% [markdown]
# ## The search

# %%
assert main(["tune", str(folder / "study.yaml"), "--out", str(folder / "out")]) == 0

# %%
SVG(filename=folder / "out" / "pareto.svg")

# %% [markdown]
# *Each mark is a trial; on the front no other is better in both. The defaults are the diamond, what is chosen the star. n =
# 16 trials of one replication.*

# %%
load_study(folder / "out").tail(4)

# %% [markdown]
# ## Judged by what the search has not seen

# %%
held_out = folder / "out" / "held_out.parquet"
pd.read_parquet(held_out).round(4) if held_out.exists() else "the defaults are chosen: nothing is held against them"

# %% [markdown]
# ## Ready to launch

# %%
assert main(["check", str(folder / "out" / "tuned.yaml")]) == 0
