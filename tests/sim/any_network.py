"""Any network: Hypothesis strategies for configs and requests in which whatever can go wrong does, and much of it at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lattice_core.config import Config, revise
from lattice_core.config.network import POLICIES
from lattice_core.events import Event, NodeRegistered
from lattice_core.units import NANO, NEVER_NS
from lattice_sim.workload import Requests
from tests.sim.served import PLAIN, Planned, founding

EPOCH_NS = 12 * NANO
EPOCHS = 3

_REFERENCE = {"ttft": "500ms", "itl": "10ms", "prefill_tok_s": 1000, "output_tok": 50, "price_input": 0.2, "price_output": 1}
_MODELS = {
    "chat": {"kind": "llm", "context": 4096, "reference": _REFERENCE},
    "code": {"kind": "llm", "context": 300, "reference": _REFERENCE | {"price_output": 2}},
    "facts": {"kind": "knowledge", "context": 400, "reference": _REFERENCE | {"ttft": "50ms", "output_tok": 20}},
    "tasks": {"kind": "agent", "context": 4096, "reference": _REFERENCE | {"output_tok": 200}},
}
_SERVED = {"llm": [["chat"], ["chat", "code"], ["code"]], "knowledge": [["facts"]], "agent": [["tasks"]]}
_OWN = ("tests.core.own_policy:dearest", "tests.core.own_policy:alternating")


@dataclass(frozen=True)
class Plan:
    """What a population asks: `count` requests at multiples of `grid_ns` before the end, the rest drawn by `seed`.

    Half of the users wait as long as it takes, the others `patience_ns`.
    """

    seed: int
    count: int
    grid_ns: int
    patience_ns: int

    def workload(self, config: Config, population: int) -> Planned:
        users, rng = config.users[population], np.random.default_rng(self.seed)
        names = list(config.models)
        places = EPOCHS * EPOCH_NS // self.grid_ns

        def whole(low: int, high: int) -> Any:
            return rng.integers(low, high, self.count)

        model = rng.choice([names.index(name) for name in users.model], self.count)
        max_tok = np.full(self.count, users.tokens.max_tokens)
        columns = (
            np.sort(whole(0, places)) * self.grid_ns,
            whole(0, users.count),
            model,
            rng.choice([1, 100, 128, 200], self.count),
            np.minimum(max_tok, rng.choice([1, 2, 40, 100], self.count)),
            max_tok,
            rng.choice([self.patience_ns, NEVER_NS], self.count),
            whole(0, 4),
            whole(0, 3),
        )
        return Planned(Requests(*(np.asarray(column, np.int64) for column in columns)))


@dataclass(frozen=True)
class Network:
    """A config; the plan of each population that has one; whether its nodes claim more room than they have."""

    config: Config
    plans: list[Plan | None]
    boastful: bool

    def facts(self) -> Iterator[Event]:
        """What the chain would tell of everyone."""
        for fact in founding(self.config):
            if self.boastful and isinstance(fact, NodeRegistered):
                fact = fact._replace(queue_room=fact.queue_room + 2)
            yield fact

    def plan(self, workloads: list[Any]) -> None:
        """Put what is planned in place of what an engine would draw."""
        for number, plan in enumerate(self.plans):
            if plan is not None:
                workloads[number] = plan.workload(self.config, number)


def _pick(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


_FAILURES = _pick(None, None, {"mtbf": "3s", "mttr": "1s"}, {"mtbf": "20s", "mttr": "5s"}, {"mtbf": "1s", "mttr": "10s"})
_AVAILABILITY = _pick(
    "always", "always", {"on": "4s", "off": "2s"}, {"on": "1s", "off": "1s"},
    {"diurnal": {"start": "12s", "up": "9s", "jitter": "10s"}},
    {"diurnal": {"start": "23h", "up": "3602s", "jitter": 0}},
)  # fmt: skip
_HARDWARE = _pick(
    {"a": "7ms", "b": 0, "prefill_tok_s": 1000}, {"a": "7ms", "b": "1ms", "prefill_tok_s": 1000},
    {"a": 0, "b": "5ms", "prefill_tok_s": 3000}, {"a": "50ms", "b": "20ms", "prefill_tok_s": 200},
)  # fmt: skip
_NODES = st.fixed_dictionaries(
    {
        "kind": _pick("llm", "llm", "knowledge", "agent"),
        "cluster": _pick(None, None, "clinic"),
        "count": st.one_of(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12)),
        "hardware": _HARDWARE,
        "slots": _pick(1, 1, 2, 4),
        "queue": _pick(0, 0, 1, 3),
        "price": _pick(*({"input": i, "output": o} for i, o in ((0.2, 1), (0.2, 1), (0.1, 0.5), (0, 10)))),
        "bond": _pick(200, 200, 200, 1000, 1000, 50),
        "availability": _AVAILABILITY,
        "failures": _FAILURES,
        "network_delay": _pick(0, 0, "1ns", "20ms", "400ms"),
    }
)
_USERS = st.fixed_dictionaries(
    {
        "count": _pick(1, 3, 20),
        "tokens": st.fixed_dictionaries(
            {
                "prompt": _pick(100, {"median": 100, "sigma": 1.0}),
                "output": _pick(40, {"median": 40, "sigma": 0.8}),
                "max_tokens": _pick(64, 250),
            }
        ),
        "budget": _pick(
            {"deposit": 10}, {"deposit": 10}, {"deposit": 10, "faucet": 0.0005}, {"deposit": 0.0006, "faucet": 0.0003}
        ),
        "patience": _pick(None, None, "300ms", {"median": "1s", "sigma": 1.0}),
        "deadline": _pick("10m", "10m", "4s", "700ms"),
        "max_fee": _pick(None, None, None, 0.0002),
        "retries": _pick(0, 0, 1, 3),
    }
)
_ROUTING = {
    "policy": _pick(*POLICIES, *_OWN, *_OWN),
    "candidates": _pick(None, None, 1, 3, 64),
    "explore": _pick(0, 0.03, 0.5, 1),
    "under_observed": _pick(0, 3, 30),
    "retries": _pick(0, 1, 3),
    "resume": _pick(True, True, False),
    "newcomer_cap": _pick(0, 0, 1, 3),
    "refresh": _pick("1s", "1m"),
    "reservation": _pick("15m", "15m", "1500ms"),
    "breaker": st.fixed_dictionaries(
        {
            "failures": _pick(1, 3),
            "open": _pick("1ms", "1s", "5s"),
            "successes": _pick(1, 2),
            "max_ejected": _pick(0.1, 0.5, 1),
        }
    ),
}
_GRIDS_NS = _pick(1, 7_000_000, NANO // 10, NANO, 2 * NANO, 4 * NANO)
_WORKLOADS = _pick(
    {"poisson": {"requests_per_day": 100_000}},
    {"modulated": {"requests_per_day": 100_000, "bursts": [{"cv": 2, "period": "1s"}]}, "sessions": {"turns": 3, "spread": 10}},
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A network of 1 to 200 nodes whose users send some 20 to 200 requests."""
    nodes = [
        drawn | {"name": f"node{i}", "models": draw(_pick(*_SERVED[drawn["kind"]]))}
        for i, drawn in enumerate(draw(st.lists(_NODES, min_size=1, max_size=3)))
    ]
    if draw(st.integers(0, 24)) == 0:
        nodes[0]["count"] = draw(st.integers(30, 200 - sum(population["count"] for population in nodes[1:])))
    users, plans = [], []
    for i, drawn in enumerate(draw(st.lists(_USERS, min_size=1, max_size=3))):
        home = draw(_pick(*sorted({population["cluster"] for population in nodes}, key=str)))
        served = sorted({model for population in nodes if population["cluster"] == home for model in population["models"]})
        models = draw(st.lists(st.sampled_from(served), min_size=1, max_size=2, unique=True))
        privacy = draw(_pick("public") if home is None else _pick("cluster", "cluster", "local"))
        drawn |= {"privacy": privacy, "cluster": home or draw(_pick(None, "clinic")), "name": f"user{i}"}
        users.append(drawn | {"model": dict.fromkeys(models, 1.0), "workload": draw(_WORKLOADS)})
        plans.append(draw(st.none() | st.builds(Plan, st.integers(0, 2**32), st.integers(1, 80), _GRIDS_NS, _GRIDS_NS)))
    routing = draw(st.fixed_dictionaries(_ROUTING))
    if routing["policy"] == _OWN[0] and draw(st.booleans()):  # too dear for its score
        nodes = [population | {"price": {"input": 0, "output": 100}} for population in nodes]
    changes = {
        "seed": draw(st.integers(0, 2**63 - 1)),
        "models": _MODELS,
        "clusters": [{"name": "clinic"}],
        "nodes": nodes,
        "users": users,
        "routing": routing,
        "reputation": {
            "audit_rate": draw(_pick(0, 0.2, 1)),
            "probe_interval": draw(_pick("2s", "10s")) if sum(p["count"] for p in nodes) < 12 else "1m",
            "quality_half_life": draw(_pick("10s", "7d")),
        },
        "chain": {"epoch": f"{EPOCH_NS}ns", "chunk_users": draw(_pick(1, 4, 1000)), "grace_epochs": draw(_pick(1, 2))},
        "sim.epochs": EPOCHS,
    }
    return Network(revise(PLAIN, changes), plans, draw(_pick(False, False, True)))
