"""`lattice check`: whether a config is good for simulation and for live mode, and what to expect of it."""

import argparse
from typing import Any

from lattice_cli.network import add_config, read_config


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("check", help="say whether a config is good, and what to expect of it")
    add_config(parser)
    parser.set_defaults(command=_check)


def _check(arguments: argparse.Namespace) -> int:
    config = read_config(arguments)
    print(f"OK  {config.name}  {config.sha256()[:8]}")
    print(f"  nodes     {_counts({nodes.name: nodes.count for nodes in config.nodes})}")
    print(f"  users     {_counts({users.name: users.count for users in config.users})}")
    for users in config.users:
        print(f"  workload  {users.name}: {_workload(users)}")
    for model in config.models:
        print(f"  load      {model}: {_load(config, model)}")
    return 0


def _counts(counts: dict[str, int]) -> str:
    return f"{sum(counts.values()):,}  ({', '.join(f'{count:,} {name}' for name, count in counts.items())})"


def _workload(users: Any) -> str:
    workload = users.workload
    if workload.trace is not None:
        from lattice_core.units import to_s
        from lattice_sim.trace import read_trace

        trace = read_trace(workload.trace)
        span_s = to_s(int(trace.t_ns[-1])) * workload.stretch / workload.scale
        return f"{len(trace.t_ns):,} requests of {workload.trace} in {span_s:,.0f} s"
    return f"{workload.rhythm.requests_per_day * workload.scale / workload.stretch:,.0f} requests a day"


def _load(config: Any, model: str) -> str:
    from lattice_core.capacity import utilisation

    try:
        by_hour = utilisation(config, model)
    except ValueError:
        return "given by a trace"
    peak = max(by_hour)
    return f"nodes at most {peak:.0%} busy, from {by_hour.index(peak)}:00, and {sum(by_hour) / 24:.0%} in the mean"
