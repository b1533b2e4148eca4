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
# # Where does a fee go?
#
# **Summary.** Of a fee 93 % stays with the operator; burn, treasury and auditors share the rest. A bonus of any size pays at
# most nine tenths of what was burned, 0.6 LAI on the baseline's day, a tenth of what the treasury takes in.
#
# **Question.** Who lives on what users pay, and can the treasury afford a bonus?
#
# **Assumptions.** The baseline network, its evening or a whole day; nobody trades LAI, whose price in money plays no part.
# Settled in the real contracts on an in-process EVM.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lattice_core.units import NANO
from lattice_sim import run
from lattice_sim.metrics import CUTS
from lattice_sim.pictures import BLUE, GREEN, GREY, ORANGE, SKY, STYLE

plt.rcParams.update(STYLE)

BASE = {"chain.backend": "revm", "sim.epochs": 6, "sim.start_hour": 16}

# %% [markdown]
# ## The cut

# %%
evening = run("baseline.yaml", BASE)
paid = evening.epochs[list(CUTS)].sum() / NANO
names = [cut.removesuffix("_nlai") for cut in CUTS]

figure, axes = plt.subplots(figsize=(7, 1.8))
left = 0.0
for name, lai, colour in zip(names, paid, (ORANGE, BLUE, GREEN, SKY, GREY), strict=True):
    axes.barh(0, lai, left=left, color=colour, label=name)
    left += lai
axes.set_yticks([])
axes.set_xlabel("LAI settled")
axes.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.45))
plt.show()

# %% [markdown]
# *Nearly all of a fee stays with operators; what is burned leaves the supply for good. n = 6 epochs.*

# %%
pd.DataFrame({"LAI": paid.round(3).to_numpy(), "share": (paid / paid.sum()).round(4).to_numpy()}, index=names)

# %% [markdown]
# ## A bonus, and the treasury
#
# A bonus pays nodes by their work, uptime and quality, from the treasury. No node gets back more than nine tenths of what was
# burned of its purchased fees: else an operator could earn by paying itself.

# %%
rows = []
for asked in (0.1, 0.3, 1, 3, 10):
    day = run("baseline.yaml", {"chain.backend": "revm", "economics.bonus.per_day": asked})
    burn = float(day.manifest["config"]["economics"]["split"]["burn"])
    cap = 0.9 * burn * day.epochs["purchased_nlai"].sum() / NANO
    paid, income = (day.epochs[name].sum() / NANO for name in ("bonus_nlai", "treasury_nlai"))
    rows.append({"asked": asked, "paid": paid, "cap": cap, "treasury's income": income})
table = pd.DataFrame(rows)

figure, axes = plt.subplots(figsize=(7, 2.8))
axes.plot(table["asked"], table["asked"], ":", color=GREY, label="asked")
axes.plot(table["asked"], table["cap"], "--", color=ORANGE, label="nine tenths of what was burned")
axes.plot(table["asked"], table["paid"], "o-", color=BLUE, label="paid")
axes.set_xscale("log")
axes.set_yscale("log")
axes.set_xlabel("bonus asked, LAI a day")
axes.set_ylabel("LAI a day")
axes.legend()
plt.show()

# %% [markdown]
# *However much is asked, the bonus stays below the cap; the treasury, which takes in ten times as much, can pay it for good.
# n = 1 day each, one seed: a terminating run has no interval; `lattice sweep` gives one.*

# %%
table.round(3)

# %% [markdown]
# ## Gas
#
# Settling has a fixed cost and one for each user, so that it is the cheaper for each, the more share a settlement.

# %%
sizes = []
for chunk_users in (20, 50, 100, 300, 1000):
    hours = run("baseline.yaml", {**BASE, "sim.epochs": 2, "chain.chunk_users": chunk_users})
    settles = hours.transactions[hours.transactions["operation"] == "settle"]
    sizes.append({"users": settles["entries"].mean(), "gas a user": settles["gas"].sum() / settles["entries"].sum()})
gas = pd.DataFrame(sizes)

figure, axes = plt.subplots(figsize=(7, 2.6))
axes.plot(gas["users"], gas["gas a user"], "o-", color=BLUE)
axes.set_xscale("log")
axes.set_ylim(0)
axes.set_xlabel("users in a settlement, mean")
axes.set_ylabel("gas a user")
plt.show()

# %% [markdown]
# *A thousand users in a transaction cost half as much each as a hundred. n = the settlements of two epochs for each size.*
