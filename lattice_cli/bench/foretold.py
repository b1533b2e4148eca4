"""`lattice bench node --simulate`: what a simulated node with this machine's own profile does, beside what the machine did.

Bursts of requests at once, one after the other, are played to the engine and, as a trace, to a simulated network of one node. A
round of the profile's measurements and a round of bursts alternate, so that a slow minute of the machine falls on both.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

PROMPT_TOK, OUTPUT_TOK = 128, 48
_APART_S = 600
_MODEL = "model"


class Pace(NamedTuple):
    """Means over the requests of a burst, in seconds."""

    ttft_s: float
    per_token_s: float
    """From the first token to the last, for each after the first."""


def compare(
    folder: Any, sizes: Sequence[int], *, threads: int, rounds: int, clock: Callable[[], float] = perf_counter
) -> dict[str, Any]:
    """The profile, and for each size of burst each figure of `Pace` as predicted and as measured, the median of `rounds`."""
    from lattice_live.node import profile
    from lattice_live.node.engine import Engine

    engine = Engine(folder, slots=max(sizes), context=profile.CONTEXT_TOK, threads=threads)
    seen: dict[int, list[Pace]] = {size: [] for size in sizes}

    def bursts() -> None:
        for size in sizes:
            seen[size].append(measured(engine, size, clock))

    bursts()  # the first run of a shape allocates
    for paces in seen.values():
        paces.clear()
    speed = profile.measure(engine, rounds=rounds, clock=clock, beside=bursts)
    document = profile.document(_MODEL, folder.manifest.variant, engine.provider, "this machine", speed)
    foretold = predicted(document, sizes)
    found: dict[str, Any] = {}
    for size in sizes:
        did = Pace(*(median(values) for values in zip(*seen[size], strict=True)))
        found[str(size)] = {
            name: {"predicted": round(said, 7), "measured": round(real, 7), "difference": round(said / real - 1.0, 4)}
            for name, said, real in zip(Pace._fields, foretold[size], did, strict=True)
        }
    return {"profile": document["models"][_MODEL], "burst": found}


def measured(engine: Any, size: int, clock: Callable[[], float] = perf_counter) -> Pace:
    """A burst played to an idle engine."""
    from lattice_live.node.engine import Job
    from lattice_live.node.profile import prompt_of
    from lattice_live.node.sampling import Sampling

    sampling = Sampling(temperature=0.0, logit_bias=dict.fromkeys(engine.end, -100.0))
    began_s = clock()
    for number in range(size):
        engine.submit(Job(number, prompt_of(engine.vocabulary, PROMPT_TOK, number), sampling, OUTPUT_TOK))
    first_s, last_s = [0.0] * size, [0.0] * size
    while engine.in_flight:
        tokens, now_s = engine.step(), clock()
        for token in tokens:
            last_s[token.job] = now_s
            if token.n == 1:
                first_s[token.job] = now_s
    spans = (last - first for first, last in zip(first_s, last_s, strict=True))
    return Pace(fmean(first_s) - began_s, fmean(spans) / (OUTPUT_TOK - 1))


def predicted(document: dict[str, Any], sizes: Sequence[int]) -> dict[int, Pace]:
    """The same bursts, simulated on a node with the hardware profile `document`."""
    import numpy as np
    import yaml

    from lattice_core.config import parse
    from lattice_core.units import NANO
    from lattice_sim.networks import read_text
    from lattice_sim.simulate import run
    from lattice_sim.trace import Trace, write_trace

    count = sum(sizes)
    t_ns = np.repeat(np.arange(len(sizes), dtype=np.int64) * _APART_S * NANO, sizes)
    tok = np.ones(count, np.int64)
    with TemporaryDirectory() as folder:
        profile, trace = (Path(folder) / name for name in ("profile.yaml", "bursts.parquet"))
        profile.write_text(yaml.safe_dump(document))
        write_trace(str(trace), Trace(t_ns, PROMPT_TOK * tok, OUTPUT_TOK * tok, 0 * tok, 0 * tok, 0 * tok), "bursts", "none")
        network = _network(str(profile), str(trace), max(sizes), len(sizes))
        config = parse(yaml.safe_dump(network), "bursts", files=read_text)
        requests = run(config).requests
    ttft_s = (requests["first_token_ns"] - requests["arrival_ns"]) / NANO
    per_token_s = (requests["end_ns"] - requests["first_token_ns"]) / NANO / (OUTPUT_TOK - 1)
    burst = requests["arrival_ns"] // (_APART_S * NANO)
    return {
        size: Pace(float(ttft_s[burst == number].mean()), float(per_token_s[burst == number].mean()))
        for number, size in enumerate(sizes)
    }


def _network(profile: str, trace: str, slots: int, bursts: int) -> dict[str, Any]:
    """One node, which is never off, asked by nobody else."""
    price = {"input": 0.1, "output": 0.2}
    reference = {"ttft": "1s", "itl": "50ms", "prefill_tok_s": 500, "output_tok": OUTPUT_TOK}
    prices = {f"price_{side}": value for side, value in price.items()}
    return {
        "version": 1,
        "name": "bursts",
        "seed": 1,
        "models": {_MODEL: {"kind": "llm", "context": 1_024, "reference": reference | prices}},
        "nodes": [
            {
                "name": "node",
                "count": 1,
                "models": [_MODEL],
                "hardware": {"profile": profile},
                "slots": slots,
                "queue": 0,
                "price": price,
                "bond": 200,
                "network_delay": "0ms",
            }
        ],
        "users": [
            {
                "name": "user",
                "count": 1,
                "model": _MODEL,
                "workload": {"trace": trace},
                "tokens": {"prompt": {"median": PROMPT_TOK}, "output": {"median": OUTPUT_TOK}, "max_tokens": OUTPUT_TOK},
                "budget": {"deposit": 100, "faucet": 0},
                "deadline": f"{_APART_S}s",
            }
        ],
        "reputation": {"probe_interval": "10d"},
        "chain": {"epoch": f"{_APART_S}s"},
        "sim": {"epochs": bursts},
    }


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """The comparison as a table."""
    from lattice_live.node import profile

    yield f"profile: {profile.brief(found['profile'])}"
    yield ""
    columns = [
        f"{figure}, {side}" for figure in ("first token, s", "per token, ms") for side in ("predicted", "measured", "off")
    ]
    yield f"| requests at once | {' | '.join(columns)} |"
    yield f"|---:|{'---:|' * len(columns)}"
    for size, row in found["burst"].items():
        cells = []
        for name, digits, factor in (("ttft_s", 2, 1.0), ("per_token_s", 1, 1e3)):
            pair = [f"{row[name][side] * factor:,.{digits}f}" for side in ("predicted", "measured")]
            cells += [*pair, f"{row[name]['difference']:+.0%}"]
        yield f"| {' | '.join([size, *cells])} |"
