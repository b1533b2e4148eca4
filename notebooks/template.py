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
# # A notebook's question as its title
#
# **Summary.** What was found, in two sentences with their numbers. Written last.
#
# **Question.** What somebody wants to decide.
#
# **Assumptions.** What the answer rests on: the network, what is not modelled, seeds, replications.

# %%
import matplotlib.pyplot as plt

from lattice_sim import run
from lattice_sim.pictures import BLUE, STYLE
from lattice_sim.study.statistics import mean_interval

plt.rcParams.update(STYLE)

# %% [markdown]
# ## Runs
#
# Small enough for a minute; whatever takes longer is a study, whose folder `load_study` reads.

# %%
SEEDS = range(4)
found = [run("local.yaml", {"seed": seed, "sim.epochs": 2}).summary() for seed in SEEDS]

# %% [markdown]
# ## What to see
#
# Pictures before tables. A caption says what to see, and n.

# %%
figure, axes = plt.subplots(figsize=(6, 2.6))
axes.plot(SEEDS, [summary["ttft_p95_s"] for summary in found], "o", color=BLUE)
axes.set_xticks(SEEDS)
axes.set_xlabel("seed")
axes.set_ylabel("first token, 95th percentile, s")
plt.show()

# %% [markdown]
# *The 95th percentile of the time to first token differs little between seeds. n = 4 runs.*

# %%
interval = mean_interval([summary["ttft_p95_s"] for summary in found])
print(f"{interval.mean:.3f} ± {interval.half_width:.3f} s, 95 %, n = {interval.n}")
