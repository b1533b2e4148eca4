"""`lattice bench node`: how fast and how well each variant of a model is served here, beside llama.cpp if that is installed.

All engines are loaded at once, and rounds take them in turn, so that a slow minute of the machine falls on all of them alike.
`--simulate`, `--long-prompt` and `--requests` measure something else instead, of one variant.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_cli.bench import delayed, foretold, lasting

BATCHES = (1, 2, 4, 8)
PROMPT_TOK = 512
ROUNDS = 5
CPU_VARIANTS = ("fp32", "int8", "q4")

ONE_VARIANT = "int8"
"""What these three serve if it is among `--variants`."""

AGREEMENT = 0.95
"""A variant that agrees with fp32 in less than this share of positions is another model, however fast."""

PASSAGE = """
A river carries more than water. In the hills it is quick and narrow, and it takes with it whatever it can lift: sand after a
dry week, gravel after a storm, and once in a lifetime a boulder as large as a cart. Lower down the valley widens, the slope
eases, and the river begins to put things down again. First it leaves the stones, because they are heavy, then the gravel,
then the sand, and last of all, where it hardly moves, the fine grey mud that makes good fields. People who farm such land
know that the flood which ruins one harvest feeds the next ten.

When the engineers of the last century looked at this, they saw disorder. They built banks to hold the water in one bed, and
dams to even out its flow. For a while all went well. Towns grew on ground that used to be under water each spring, and ships
could sail in August. But a river that may not spread cannot drop its mud on the fields. It carries the mud to the sea
instead, or it leaves it in its own bed, which rises year by year until the water stands higher than the roofs behind the
banks. Below the dams the opposite happens. The water comes out clear and hungry, and it digs into its bed until the wells of
the villages run dry.

So the work of our time is to give some of the land back. A bank is moved half a mile from the river, and between the old line
and the new one the meadows may flood as they please. It costs money, and someone has to be asked to sell a field that his
grandfather drained by hand. Yet the sums are not hard to do. A flood that has room to lie down does not knock on doors, and a
marsh asks for no repairs. The first to notice are the birds, which arrive in the second winter as if they had been waiting
for a letter. Then come the frogs, the fish that feed on their spawn, and the herons that feed on both. Children who grow up
beside such a place think that it has always been there, and in a sense they are right. It was only away for a hundred years.
"""
"""What the variants are judged by: how surprised they are by it, and how often their guess of its next token is fp32's."""


class Quality(NamedTuple):
    """Of a variant on the passage."""

    perplexity: float
    """exp of the mean negative log-likelihood of a token."""
    agreement: float
    """Share of positions at which the likeliest next token is that of fp32."""


def add(subparsers: Any) -> None:
    node = subparsers.add_parser("node", help="tokens per second of a model's variants on this machine, beside llama.cpp")
    node.add_argument(
        "--model", default="smollm2-135m", metavar="NAME", help="a model that `lattice model pull` knows, or a GGUF file"
    )
    node.add_argument(
        "--variants", type=_variants, default=CPU_VARIANTS, metavar="A,B", help=f"of {', '.join(CPU_VARIANTS)} (all)"
    )
    node.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="threads of each engine (all cores)"
    )
    node.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"the median of so many counts ({ROUNDS})")
    node.add_argument("--no-quality", action="store_true", help="measure speed only")
    node.add_argument(
        "--cpu", action="store_true", help="count the CPU seconds of one thread, which other work on the machine changes least"
    )
    other = node.add_mutually_exclusive_group()
    other.add_argument(
        "--simulate", action="store_true", help="what a simulated node with this machine's profile does, beside the real one"
    )
    other.add_argument(
        "--long-prompt",
        action="store_true",
        help=f"how long {delayed.CHATS} chats wait for tokens while a prompt of {delayed.PROMPT_TOK:,} is read",
    )
    other.add_argument(
        "--requests", type=_requests, metavar="N", help="serve so many short ones over HTTP: does the node's memory grow?"
    )
    node.add_argument("--json", action="store_true", help="print one JSON object")
    node.set_defaults(command=_node)


def _variants(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in CPU_VARIANTS:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(CPU_VARIANTS)}, not {name!r}")
    return names


def _requests(text: str) -> int:
    if not text.isdecimal() or not lasting.EVERY <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError(f"must be a whole number from {lasting.EVERY} to {10**9}, not {text!r}")
    return int(text)


def _node(arguments: argparse.Namespace) -> int:
    from lattice_core.config import ConfigError
    from lattice_live.models import ModelError

    if arguments.cpu:
        arguments.threads = 1
    one = arguments.simulate or arguments.long_prompt or arguments.requests is not None
    variants = (ONE_VARIANT if ONE_VARIANT in arguments.variants else arguments.variants[0],) if one else arguments.variants
    try:
        folders, gguf = _folders(arguments.model, variants)
    except ModelError as error:
        raise ConfigError(str(error)) from error
    if one:
        found, lines = _one(folders[variants[0]], arguments)
    else:
        found = _speeds(folders, gguf, arguments)
        lines = _markdown(found)
    print(json.dumps(found) if arguments.json else "\n".join(lines))
    return 0


def _folders(model: str, variants: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """The model in each variant, and the file that all are made of. Raises ModelError."""
    from lattice_cli.model import progress_bar
    from lattice_live.models import store
    from lattice_live.models.catalogue import CATALOGUE

    bar = progress_bar(model)
    if (gguf := Path(model)).is_file():
        return {variant: store.resolve_gguf(gguf, variant, bar) for variant in variants}, gguf
    folders = {variant: store.resolve(model, variant, bar) for variant in variants}
    return folders, store.cache() / model / Path(CATALOGUE[model].member).name


def _one(folder: Any, arguments: argparse.Namespace) -> tuple[dict[str, Any], Iterator[str]]:
    """What `--simulate`, `--long-prompt` or `--requests` finds, and that in words."""
    threads = arguments.threads
    if arguments.simulate:
        compared = foretold.compare(folder, BATCHES, threads=threads, rounds=arguments.rounds, clock=_clock(arguments))
        return compared, foretold.markdown(compared)
    if arguments.long_prompt:
        delays = delayed.measure(folder, threads=threads, rounds=arguments.rounds, clock=_clock(arguments))
        return delays, delayed.markdown(delays)
    from tqdm import tqdm

    with tqdm(total=arguments.requests, unit="request", disable=None, leave=False) as bar:
        lasted = lasting.serve(folder, arguments.requests, threads=threads, told=lambda done, mib: bar.update(done - bar.n))
    return lasted, lasting.markdown(lasted)


def _clock(arguments: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if arguments.cpu else time.perf_counter


def _speeds(folders: dict[str, Any], gguf: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    speeds = measure(folders, gguf, threads=arguments.threads, rounds=arguments.rounds, clock=_clock(arguments))
    judged = {} if arguments.no_quality else qualities(gguf, arguments.variants)
    for variant, row in speeds.items():
        row["size_mib"] = round(folders[variant].size_bytes / 2**20, 1)
        if variant in judged:
            row |= judged[variant]._asdict()
    return speeds


def measure(
    folders: dict[str, Any], gguf: Path, *, threads: int, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, Any]]:
    """For each variant, by batch size, `tokens_per_s` and `llama_cpp_tokens_per_s` (None without it); and `prefill`."""
    from lattice_live.node.engine import Engine
    from lattice_live.node.profile import STEPS, prefill_s, prompt_of, step_s

    context = 2 * PROMPT_TOK
    engines = {
        variant: Engine(folder, slots=max(BATCHES), context=context, threads=threads) for variant, folder in folders.items()
    }
    rival = _rival(gguf, context, threads, clock)
    prefills: dict[str, list[float]] = {name: [] for name in (*engines, "llama.cpp")}
    steps: dict[str, dict[int, list[float]]] = {name: {size: [] for size in BATCHES} for name in prefills}
    for number in range(rounds + 1):  # the first round warms up
        for name, engine in engines.items():
            spent = prefill_s(engine, PROMPT_TOK, clock)
            taken = {size: median(step_s(engine, size, clock)) for size in BATCHES}
            if number:
                prefills[name].append(spent)
                for size, value in taken.items():
                    steps[name][size].append(value)
        if rival is not None:
            words = prompt_of(next(iter(engines.values())).vocabulary, PROMPT_TOK)
            spent = rival.prefill_s(words)
            taken = {size: median(rival.step_s(size, words[:4], STEPS)) for size in BATCHES}
            if number:
                prefills["llama.cpp"].append(spent)
                for size, value in taken.items():
                    steps["llama.cpp"][size].append(value)
    if rival is not None:
        rival.close()
    found: dict[str, dict[str, Any]] = {}
    for name, engine in engines.items():
        found[name] = {
            str(size): {
                "tokens_per_s": round(size / median(steps[name][size]), 1),
                "llama_cpp_tokens_per_s": _rate(size, steps["llama.cpp"][size]),
            }
            for size in BATCHES
        }
        found[name]["prefill"] = {
            "tokens_per_s": round(PROMPT_TOK / median(prefills[name]), 1),
            "llama_cpp_tokens_per_s": _rate(PROMPT_TOK, prefills["llama.cpp"]),
        }
        found[name]["provider"], found[name]["kv_mib"] = engine.provider, round(engine.memory_bytes / 2**20, 1)
    return found


def _rate(tokens: int, times: Sequence[float]) -> float | None:
    return round(tokens / median(times), 1) if times else None


def _rival(gguf: Path, context: int, threads: int, clock: Callable[[], float]) -> Any:
    from lattice_cli.bench.llama_cpp import LlamaCpp

    try:
        return LlamaCpp(gguf, slots=max(BATCHES), context=context, threads=threads, clock=clock)
    except ImportError:
        return None


def qualities(gguf: Path, variants: Sequence[str]) -> dict[str, Quality]:
    """Perplexity and agreement with fp32 of each variant, over PASSAGE."""
    from lattice_live.models.convert import convert

    with TemporaryDirectory() as folder:
        logits, ids = {}, []
        for variant in {"fp32": None} | dict.fromkeys(variants):
            whole = convert(gguf, Path(folder) / variant, variant, all_logits=True)
            ids = whole.text.encode(PASSAGE.strip().replace("\n", " "))
            logits[variant] = read(whole, ids)
        reference = logits["fp32"].argmax(1)
        return {
            variant: Quality(
                round(float(np.exp(-np.mean(_log_likelihood(logits[variant], ids)))), 3),
                round(float(np.mean(logits[variant].argmax(1) == reference)), 4),
            )
            for variant in variants
        }


def read(folder: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits [len(ids), vocabulary] of a model folder with all logits, read at once."""
    from lattice_live.node import runtime

    session = runtime.session(folder.path / "model.onnx", "cpu", threads=os.cpu_count() or 1)
    shape = (1, folder.manifest.kv_heads, len(ids), folder.manifest.head_dim)
    cache = {
        entry.name: np.zeros(shape, np.float32) for entry in session.get_inputs() if entry.name.startswith("past_key_values")
    }
    count = np.array([len(ids)], np.int32)
    fed = {"input_ids": np.array([ids], np.int64), "seqlens_k": count - 1, "total_sequence_length": count, **cache}
    found: NDArray[np.float32] = session.run(["logits"], fed)[0][0]
    return found


def _log_likelihood(logits: NDArray[np.float32], ids: Sequence[int]) -> NDArray[np.float64]:
    """Of each token but the first, given those before it."""
    before = logits[:-1].astype(np.float64)
    before -= before.max(1, keepdims=True)
    chosen = before[np.arange(len(ids) - 1), np.asarray(ids[1:])]
    return np.asarray(chosen - np.log(np.exp(before).sum(1)))


def _markdown(speeds: dict[str, dict[str, Any]]) -> Iterator[str]:
    heads = ["prefill", *(f"decode {size}" for size in BATCHES)]
    yield f"| variant | size, MiB | perplexity | top-1 as fp32 | {' | '.join(heads)} |"
    yield f"|---|---:|---:|---:|{'---:|' * len(heads)}"
    keys = ["prefill", *map(str, BATCHES)]
    rival: dict[str, Any] = {}
    for variant, row in speeds.items():
        quality = [str(row.get(key, "")) for key in ("size_mib", "perplexity", "agreement")]
        yield f"| {' | '.join([variant, *quality, *(f'{row[key]["tokens_per_s"]:,.0f}' for key in keys)])} |"
        rival = row
    theirs = [rival[key]["llama_cpp_tokens_per_s"] for key in keys] if rival else []
    said = [f"{rate:,.0f}" if rate else "not installed" for rate in theirs]
    yield f"| {' | '.join(['llama.cpp', '', '', '', *said])} |"
    for variant, row in speeds.items():
        if row.get("agreement", 1.0) < AGREEMENT:
            yield f"\n{variant}: agrees with fp32 in less than {AGREEMENT:.0%} of positions: it is another model."
