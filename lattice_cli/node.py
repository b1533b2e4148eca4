"""`lattice node`: what this machine can do as a node, what that would earn, and a node in a network."""

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

from lattice_cli import member
from lattice_cli.network import add_config, read_config
from lattice_core.config import ConfigError

MAX_REPLICATIONS = 1_000


def add(subparsers: Any) -> None:
    node = subparsers.add_parser("node", help="run a node, measure this machine as one, and estimate what it would earn")
    commands = node.add_subparsers(metavar="COMMAND", required=True)
    member.add(commands)
    profile = commands.add_parser(
        "profile", help="measure how fast this machine serves a model, as `hardware: {profile: FILE}`"
    )
    profile.add_argument("--model", default="smollm2-135m", metavar="NAME", help="a model to pull, or a model folder")
    profile.add_argument("--variant", default="int8", metavar="V", help="its precision (int8)")
    profile.add_argument("--name", metavar="NAME", help="what configs call the model; its own name if not given")
    profile.add_argument("--slots", type=_slots, default=8, metavar="N", help="the largest batch (8)")
    profile.add_argument("--threads", type=_slots, default=os.cpu_count() or 1, metavar="N", help="of the engine (all cores)")
    profile.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where it runs (cpu)")
    profile.add_argument("--out", type=Path, metavar="FILE", help="write the profile here; it is printed if not given")
    profile.set_defaults(command=_profile)

    estimate = commands.add_parser("estimate", help="what a node would earn a day in the simulated network, with an interval")
    add_config(estimate)
    estimate.add_argument(
        "--hardware", required=True, metavar="NAME|FILE", help="a name of the catalogue, or what `lattice node profile` wrote"
    )
    estimate.add_argument("--model", metavar="NAME", help="which model of the config it serves; its only one if not given")
    estimate.add_argument("--slots", type=int, metavar="N", help="requests it decodes at once; else as its like in the config")
    estimate.add_argument("--queue", type=int, metavar="N", help="requests that may wait; else as its like in the config")
    estimate.add_argument(
        "--price", type=_pair, metavar="IN,OUT", help="LAI per million tokens; else as its like in the config"
    )
    estimate.add_argument("--bond", type=float, metavar="LAI", help="its bond; else as its like in the config")
    estimate.add_argument("--watts", type=_pair, default=(0.0, 0.0), metavar="IDLE,BUSY", help="what the machine draws (0,0)")
    estimate.add_argument("--kwh", type=_positive, default=0.0, metavar="LAI", help="price of a kilowatt-hour in LAI (0)")
    estimate.add_argument(
        "--replications", type=_replications, default=5, metavar="N", help="simulated futures, each of its own seed (5)"
    )
    estimate.add_argument("--json", action="store_true", help="print one JSON object")
    estimate.set_defaults(command=_estimate)


def _slots(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_024:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1024, not {text!r}")
    return int(text)


def _pair(text: str) -> tuple[float, float]:
    first, comma, second = text.partition(",")
    if not comma:
        raise argparse.ArgumentTypeError(f"must be two numbers with a comma between, not {text!r}")
    return _positive(first), _positive(second)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, not {text!r}")
    return number


def _replications(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_REPLICATIONS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_REPLICATIONS}, not {text!r}")
    return int(text)


def _profile(arguments: argparse.Namespace) -> int:
    import yaml

    from lattice_cli.model import progress_bar
    from lattice_live.models import ModelError, store
    from lattice_live.models.folder import ModelFolder
    from lattice_live.node import profile
    from lattice_live.node.engine import Engine
    from lattice_sim.rundir import cpu

    try:
        if Path(arguments.model).is_dir():
            folder = ModelFolder.open(arguments.model)
        else:
            folder = store.resolve(arguments.model, arguments.variant, progress_bar(arguments.model))
        context = min(folder.manifest.context, profile.CONTEXT_TOK)
        engine = Engine(folder, slots=arguments.slots, context=context, threads=arguments.threads, provider=arguments.provider)
    except (ModelError, RuntimeError, MemoryError) as error:
        raise ConfigError(str(error)) from error
    name = arguments.name or (folder.manifest.name if Path(arguments.model).is_dir() else arguments.model)
    machine = f"{cpu()}, {arguments.threads} threads"
    found = profile.document(name, folder.manifest.variant, engine.provider, machine, profile.measure(engine))
    text = yaml.safe_dump(found, sort_keys=False)
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text, encoding="utf-8")
        figures = found["models"][name]
        print(f"{arguments.out}: {name}: {profile.brief(figures)}")
    return 0


def _estimate(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from lattice_core.config.document import profile_figures
    from lattice_core.hardware import CATALOGUE
    from lattice_sim.estimate import CONFIDENCE, Power, estimate, with_node
    from lattice_sim.networks import read_text

    config = read_config(arguments)
    hardware: Any = arguments.hardware
    if hardware not in CATALOGUE:
        if not Path(hardware).is_file():
            raise ConfigError(f"--hardware: must be one of {', '.join(CATALOGUE)}, or a profile's file, not {hardware}")
        hardware = {"models": profile_figures(read_text(hardware), hardware)}
    price = arguments.price and dict(zip(("input", "output"), arguments.price, strict=True))
    config = with_node(
        config, hardware, arguments.model, slots=arguments.slots, queue=arguments.queue, price=price, bond=arguments.bond
    )
    idle_w, busy_w = arguments.watts
    power = Power(idle_w, busy_w, arguments.kwh)
    seeds = range(config.seed, config.seed + arguments.replications)
    with tqdm(total=len(seeds), unit="run", disable=None, leave=False) as bar:
        found = estimate(config, power, seeds, bar.update)
    if arguments.json:
        days = [{**day._asdict(), "net_lai": day.net_lai} for day in found.days]
        print(json.dumps({**found._asdict(), "days": days, "confidence": CONFIDENCE}))
        return 0
    print(f"{'seed':>20} {'answers':>9} {'slots busy':>10} {'revenue':>9} {'power':>9} {'net, LAI a day':>15}")
    for day in found.days:
        print(
            f"{day.seed:>20} {day.answers:>9,.0f} {day.utilisation:>10.0%} {day.revenue_lai:>9.3f} {day.electricity_lai:>9.3f} "
            f"{day.net_lai:>15.3f}"
        )
    if found.low_lai is None:
        print(f"mean {found.mean_lai:.3f} LAI a day; one replication has no interval")
    else:
        print(f"mean {found.mean_lai:.3f} LAI a day, {CONFIDENCE:.0%} interval {found.low_lai:.3f} to {found.high_lai:.3f}")
    return 0
