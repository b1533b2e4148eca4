"""`lattice load`: the requests of a config's users, asked of a live network over HTTP, as a run directory."""

import argparse
import asyncio
import dataclasses
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lattice_cli.network import add_config, read_config
from lattice_core.config import Config, ConfigError
from lattice_core.records import IN_FLIGHT
from lattice_core.units import NANO

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from lattice_live.load import Asked, Load
    from lattice_sim.rundir import Run

ENGINE = "load"
"""The engine that the manifest of such a run names."""

GRACE_S = 10.0
"""How long after a request's deadline its end is waited for: the network tells it."""

ENDS = ("completed", "failed", "rejected")

UNSEEN = ("nodes_up", "slots_up", "busy_slot_ns", "offered_slot_ns")
"""Columns of an epoch that only the Nexus could fill, and that are null; no settlement is seen either, which is 0."""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("load", help="ask a live network what a config's users ask, and write a run directory")
    add_config(parser)
    parser.add_argument("--against", metavar="URL", required=True, help="where the Nexus listens, as http://127.0.0.1:8080")
    parser.add_argument(
        "--key",
        metavar="KEY",
        default=os.environ.get("LATTICE_API_KEY"),
        help="the API key that plays all users; $LATTICE_API_KEY if not given",
    )
    parser.add_argument("--out", metavar="DIR", help="run directory to write; runs/NAME-HASH-load if not given")
    parser.add_argument("--epochs", metavar="N", type=int, help="play so many epochs, in place of the config's sim.epochs")
    parser.add_argument("--force", action="store_true", help="replace an older run in DIR")
    parser.set_defaults(command=_load)


def _load(arguments: argparse.Namespace) -> int:
    from lattice_live.load import Load, LoadError
    from lattice_sim.rundir import COMPLETE, Draft, default_folder

    config = read_config(arguments, *([] if arguments.epochs is None else [f"sim.epochs={arguments.epochs}"]))
    if not arguments.key:
        raise ConfigError("--key: must be an API key that the network gave out")
    if not arguments.against.startswith(("http://", "https://")):
        raise ConfigError(f"--against: must begin with http:// or https://, unlike {arguments.against}")
    out = Path(arguments.out) if arguments.out else Path(f"{default_folder(config)}-load")
    planned = plan(config)
    with Draft(out, force=arguments.force) as draft:
        load = Load(arguments.against, arguments.key, config.seed, planned.asked)
        try:
            end_ns = asyncio.run(_played(load))
        except LoadError as error:
            raise ConfigError(str(error)) from error
        run = run_of(config, planned, load, end_ns)
        run.write(draft.path)
        draft.publish()
    for name, value in figures(run):
        print(f"{name:<32}{value}")
    print(f"{'run':<32}{out}")
    if run.status != COMPLETE:
        print(f"{arguments.config}: {run.status}: {run.manifest['reason']}", file=sys.stderr)
        return 130
    return 0


class Plan(NamedTuple):
    """The requests of all populations in order of their times, and whose they are: index of the population, ordinal in it."""

    asked: list["Asked"]
    population: list[int]
    user: list[int]


def plan(config: Config) -> Plan:
    """What the config's users ask within its epochs, with the simulator's own streams. Raises ConfigError for a bad trace."""
    from lattice_live.load import Asked
    from lattice_sim.trace import TraceError
    from lattice_sim.workload import workload

    end_ns, names = config.sim.epochs * config.chain.epoch_ns, tuple(config.models)
    rows = []
    for place, population in enumerate(config.users):
        try:
            requests = workload(config, population).until(end_ns)
        except TraceError as error:
            raise ConfigError(str(error)) from error
        give_up_s = population.deadline_ns / NANO + GRACE_S
        columns = (requests.t_ns, requests.user, requests.model, requests.prompt_tok, requests.output_tok, requests.patience_ns)
        for t_ns, user, model, prompt_tok, output_tok, patience_ns in zip(*(c.tolist() for c in columns), strict=True):
            patience_s = None if population.patience is None else patience_ns / NANO
            rows.append((t_ns, place, user, Asked(t_ns, names[model], prompt_tok, output_tok, patience_s, give_up_s)))
    rows.sort(key=lambda row: row[:2])
    return Plan([row[3] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


async def _played(load: "Load") -> int | None:
    """Play until the end or a signal; when that was if it was a signal."""
    task = asyncio.ensure_future(load.play())
    for number in (signal.SIGINT, signal.SIGTERM):  # explicit: a background job inherits SIGINT ignored
        with suppress(NotImplementedError, ValueError, RuntimeError):  # not the main thread: nobody signals it
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return load.now_ns()
    return None


def run_of(config: Config, planned: Plan, load: "Load", stopped_ns: int | None) -> "Run":
    """What the client saw as a run; `stopped_ns`: when it was interrupted."""
    from lattice_core.records import Records
    from lattice_sim.rundir import COMPLETE, INTERRUPTED, Run

    requests = _requests(config, planned, load)
    ends_ns = _epoch_ends_ns(config, requests, stopped_ns)
    status, reason = (COMPLETE, "") if stopped_ns is None else (INTERRUPTED, "stopped by a signal")
    run = Run.of(config, Records(config), status, reason, engine=ENGINE)
    why = requests["reason"][requests["reason"] != ""].value_counts()
    about = {
        "arrived": len(requests),
        "kept": len(requests),
        "reasons": {str(name): int(why[name]) for name in sorted(why.index)},
    }
    manifest = {
        **run.manifest,
        "epochs": len(ends_ns),
        "requests": run.manifest["requests"] | about,
        "digest": None,
        "load": _generator(requests, load),
    }
    return dataclasses.replace(
        run,
        manifest=manifest,
        requests=requests.drop(columns="sent_ns"),
        epochs=_epochs(requests, ends_ns),
        users=_users(config, requests),
        latencies=_latencies(requests),
    )


def figures(run: "Run") -> list[tuple[str, str]]:
    """What one looks at first, for people."""
    from lattice_sim.report import key_figures

    unseen = ("slots busy", "probes", "fees", "Gini", "gas")
    late = run.manifest["load"]
    lateness = " / ".join("none" if value is None else f"{value * 1e3:.2f}" for value in late["late_s"].values())
    seen = [figure for figure in key_figures(run.summary()) if not figure[0].startswith(unseen)]
    return [*seen, ("generator late, p50 / p99 / max", f"{lateness} ms")]


def _requests(config: Config, planned: Plan, load: "Load") -> "pd.DataFrame":
    """The rows of requests.parquet, and `sent_ns`, when each went out. Their ids are those of a simulation."""
    import pandas as pd

    from lattice_core.records import TABLES
    from lattice_core.state import NONE

    rows = [
        (
            number,
            config.users[place].name,
            user,
            told.node,
            asked.model,
            told.prompt_tok,
            told.output_tok,
            asked.t_ns,
            NONE,
            told.first_ns,
            told.end_ns,
            told.outcome or IN_FLIGHT,
            told.reason,
            told.fee_nlai,
            told.sent_ns,
        )
        for number, (told, asked, place, user) in enumerate(zip(load.told, *planned, strict=False), 1)
    ]
    kinds = {"int64": "int64", "string": "object"}
    types = {name: kinds[kind] for name, kind in TABLES["requests"].items()} | {"sent_ns": "int64"}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def _epoch_ends_ns(config: Config, requests: "pd.DataFrame", stopped_ns: int | None) -> list[int]:
    """Ends of the epochs: the last one lasts until the last answer has ended, or the run was stopped."""
    epoch_ns, epochs = config.chain.epoch_ns, config.sim.epochs
    if stopped_ns is None:
        last_ns = max([epochs * epoch_ns, *requests["end_ns"]])
    else:
        last_ns = max([stopped_ns, 1, *requests["end_ns"], *requests["arrival_ns"]])
        epochs = min(epochs, -(-last_ns // epoch_ns))
    return [*(epoch_ns * number for number in range(1, epochs)), last_ns]


def _epochs(requests: "pd.DataFrame", ends_ns: list[int]) -> "pd.DataFrame":
    """What the client counted in each epoch; of nodes and of the chain it sees nothing."""
    import numpy as np
    import pandas as pd

    from lattice_core.records import TABLES

    arrival_ns = requests["arrival_ns"].to_numpy()
    over_ns = requests["end_ns"].where(requests["end_ns"] >= 0, ends_ns[-1]).to_numpy()
    rows, in_flight = [], 0
    for epoch, (start_ns, end_ns) in enumerate(zip([0, *ends_ns], ends_ns, strict=False)):
        last = epoch == len(ends_ns) - 1
        ended = requests[(requests["end_ns"] >= start_ns) & (requests["end_ns"] < end_ns + last)]
        counts = {name: int((ended["outcome"] == name).sum()) for name in ENDS}
        arrived = int(((arrival_ns >= start_ns) & (arrival_ns < end_ns + last)).sum())
        in_flight += arrived - sum(counts.values())
        area_ns = int(np.clip(np.minimum(over_ns, end_ns) - np.maximum(arrival_ns, start_ns), 0, None).sum())
        counted = {
            "epoch": epoch,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "arrived": arrived,
            **counts,
            "in_flight": in_flight,
            "mean_in_flight": area_ns / (end_ns - start_ns),
            "output_tok": int(ended["output_tok"].sum()),
            "gross_nlai": int(ended["fee_nlai"].clip(lower=0).sum()),
        }
        unseen = {name: np.nan if name in UNSEEN else 0 for name in TABLES["epochs"] if name not in counted}
        rows.append(counted | unseen)
    return pd.DataFrame(rows, columns=list(TABLES["epochs"]))


def _users(config: Config, requests: "pd.DataFrame") -> "pd.DataFrame":
    """Each user's requests by their ends; the money is one account's, and of no user."""
    import pandas as pd

    from lattice_core.census import each_user
    from lattice_core.records import TABLES

    counted = requests.groupby(["population", "user", "outcome"]).size().to_dict()
    rows = []
    for entry in each_user(config):
        name, user = entry.population.name, entry.ordinal
        ends = {end: counted.get((name, user, end), 0) for end in (*ENDS, IN_FLIGHT)}
        rows.append({"account": entry.account, "population": name, "user": user, "arrived": sum(ends.values()), **ends})
    return pd.DataFrame(rows, columns=list(TABLES["users"]))


def _latencies(requests: "pd.DataFrame") -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    from lattice_core.records import TABLES
    from lattice_core.request_log import bin_of, bounds_ns
    from lattice_sim.metrics import latency_ns, ttft_ns

    frames = []
    for metric, values_ns in (("ttft", ttft_ns(requests)), ("latency", latency_ns(requests))):
        bins, counts = np.unique(np.array([bin_of(ns) for ns in values_ns.tolist()], np.int64), return_counts=True)
        low_ns, high_ns = bounds_ns(bins)
        frames.append(pd.DataFrame({"metric": metric, "low_ns": low_ns, "high_ns": high_ns, "count": counts}))
    return pd.concat(frames)[list(TABLES["latencies"])]


def _generator(requests: "pd.DataFrame", load: "Load") -> dict[str, Any]:
    """How late requests went out, and the pauses between pieces of an answer, s: what tells a noisy minute."""
    import numpy as np

    late_ns = (requests["sent_ns"] - requests["arrival_ns"]).to_numpy(np.int64)
    return {"late_s": _quantiles_s(late_ns), "pause_s": _quantiles_s(np.array(load.gaps_ns, np.int64))}


def _quantiles_s(values_ns: "NDArray[np.int64]") -> dict[str, float | None]:
    from lattice_core.units import to_s
    from lattice_sim.metrics import quantile

    found = {name: quantile(values_ns, percent) for name, percent in (("p50", 50), ("p99", 99), ("max", 100))}
    return {name: None if ns is None else to_s(ns) for name, ns in found.items()}
