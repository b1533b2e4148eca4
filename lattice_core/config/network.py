"""A network as its YAML file describes it.

A field's name carries its unit (`epoch_ns`); its key in the YAML does not (`epoch: 1h`). Bounds are checked here and nowhere
else: they keep every int64 product of the rules below 2⁶³. Rates and traces belong to a whole population. A number that
multiplies money is an int in ppm; a probability or a weight is a float.
"""

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lattice_core.config.presets import FITTED
from lattice_core.config.quantities import (
    ChainDelay,
    Delay,
    Duration,
    HalfShare,
    Lai,
    OfDay,
    PaidPrice,
    Price,
    ProperShare,
    Share,
    SomeLai,
    Step,
    Text,
)
from lattice_core.hardware import CATALOGUE, MAX_SLOTS, Profile
from lattice_core.units import DAY_NS, HOUR_NS, MAX_TOKENS, MINUTE_NS, NANO, to_nlai

_UNIT_SUFFIXES = ("_ns", "_nlai", "_ppm")


def _key(field: str) -> str:
    """The YAML key of a field: its name without the unit."""
    return next((field.removesuffix(unit) for unit in _UNIT_SUFFIXES if field.endswith(unit)), field)


class Section(BaseModel):
    """A mapping of the YAML: unknown keys, loose types, NaN and infinities are refused; values never change."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        alias_generator=_key,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


Name = Annotated[str, Text(r"[A-Za-z][A-Za-z0-9_-]{0,63}", "a name: a letter, then up to 63 letters, digits, - or _")]
"""Of a population, a cluster or a network: it stands in paths of folders and of `--set`."""

ModelName = Annotated[
    str, Text(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", "a model's name: up to 128 letters, digits, . _ : / or -")
]
POLICIES = (
    *("argmax", "cheapest", "least_in_flight", "peak_ewma", "power_of_two", "price_weighted", "random", "round_robin"),
    *("score_all", "score_sampled", "sticky"),
)
"""The routing policies that `lattice_core.routing` has."""

PolicyName = Annotated[
    str,
    Text(
        rf"{'|'.join(POLICIES)}|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*",
        f"{', '.join(POLICIES)}, or one's own as module:Name",
    ),
]
Address = Annotated[str, Text(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}", "HOST:PORT, such as 127.0.0.1:8080")]
Kind = Literal["llm", "knowledge", "agent"]
SomeTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(ge=1e-6, le=1e12)]
InOrder = AfterValidator(lambda named: dict(sorted(named.items())))
"""The order of a mapping's keys never matters: indices are given in the order of names."""

FilePath = Annotated[str, Field(min_length=1, json_schema_extra={"format": "path"})]
"""A file, relative to the YAML that names it, or in `--set` to the current folder."""


class Reference(Section):
    """What routing takes as normal for a model: the governed base price and answer time of a group."""

    ttft_ns: Duration
    """Time to first token of a node nobody has used yet."""
    itl_ns: Duration
    """Time per output token of such a node."""
    prefill_tok_s: Rate
    """Prompt tokens read per second."""
    output_tok: SomeTokens
    """Expected answer, tokens."""
    price_input_nlai: Price
    """Base price of a prompt, LAI per million tokens."""
    price_output_nlai: PaidPrice
    """Base price of an answer, LAI per million tokens."""

    @property
    def answer_ns(self) -> int:
        """Reference answer time: first token and then `output_tok` tokens."""
        return self.ttft_ns + self.itl_ns * self.output_tok

    @property
    def knee_ns(self) -> int:
        """T0, at which the latency factor turns down: twice the reference answer time."""
        return 2 * self.answer_ns


class Weights(Section):
    """Where a live node gets the model's weights: exactly one of `seed`, `pull`, `gguf` and `folder`."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Seed of a tiny model of random weights, whose answers make no sense."""
    pull: Annotated[str, Field(min_length=1)] | None = None
    """Name of a model that `lattice model pull` knows."""
    gguf: FilePath | None = None
    """A GGUF file, converted when a node first needs it."""
    folder: FilePath | None = None
    """A model folder, as `lattice model convert` writes it."""
    variant: Literal["fp32", "fp16", "int8", "q4"] = "int8"
    """The precision in which `pull` and `gguf` are served."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if [self.seed, self.pull, self.gguf, self.folder].count(None) != 3:
            raise ValueError("must have exactly one of seed, pull, gguf, folder")
        return self


class Model(Section):
    """An open-source model the network serves."""

    kind: Kind
    """What a request to it is: a chat (llm), a look-up (knowledge) or a task (agent)."""
    context_tok: SomeTokens = Field(alias="context")
    """Prompt and answer together, tokens."""
    reference: Reference
    """What routing takes as normal for it."""
    weights: Weights | None = None
    """Its weights; null for a model that only the simulator knows, by its hardware profiles."""


def _hardware(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


ChunkTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


class Figures(Section):
    """How fast a node serves one model: a step of n sequences takes a + b·n."""

    a_ns: Step
    """Time of a decoding step whatever the batch."""
    b_ns: Step
    """Time that each sequence adds to a step."""
    prefill_tok_s: Rate
    """Prompt tokens read per second."""
    prefill_beside_tok_s: Rate | None = None
    """The same while others decode; as `prefill_tok_s` if not given."""
    chunk_tok: ChunkTokens | None = None
    """Prompt tokens read between two steps of others."""


class Hardware(Section):
    """A name of the catalogue, or the figures themselves: for all models, or for each as `lattice node profile` measured it."""

    name: str | None = None
    """Name in the catalogue."""
    profile: FilePath | None = None
    """A file that `lattice node profile` wrote; its figures stand in `models` once the config is read."""
    models: dict[ModelName, Figures] | None = None
    """Figures by model."""
    a_ns: Step | None = None
    """Time of a decoding step whatever the batch."""
    b_ns: Step | None = None
    """Time that each sequence adds to a step."""
    prefill_tok_s: Rate | None = None
    """Prompt tokens read per second."""
    prefill_beside_tok_s: Rate | None = None
    """The same while others decode; as `prefill_tok_s` if not given."""
    chunk_tok: ChunkTokens | None = None
    """Prompt tokens read between two steps of others."""

    def figures(self, model: str) -> Profile:
        """The figures for `model`; KeyError when there are none."""
        figures: Figures | Hardware
        if self.models is not None:
            figures, source = self.models[model], "a measured profile"
        elif self.name is None:
            figures, source = self, "the config"
        else:
            return CATALOGUE[self.name][model]
        assert figures.a_ns is not None
        assert figures.b_ns is not None
        assert figures.prefill_tok_s is not None
        beside_tok_s, chunk_tok = figures.prefill_beside_tok_s, figures.chunk_tok
        return Profile(figures.a_ns, figures.b_ns, figures.prefill_tok_s, source, beside_tok_s, chunk_tok)

    @property
    def known(self) -> Iterable[str] | None:
        """The models that there are figures for; None for any."""
        return self.models if self.models is not None else None if self.name is None else CATALOGUE[self.name]

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        inline = (self.a_ns, self.b_ns, self.prefill_tok_s)
        ways = [self.name, self.profile, self.models, None if inline.count(None) == 3 else inline]
        if ways.count(None) != 3 or inline.count(None) not in (0, 3):
            raise ValueError("must be a name of the catalogue, all of a, b and prefill_tok_s, or {profile: FILE}")
        if self.a_ns is None and (self.prefill_beside_tok_s is not None or self.chunk_tok is not None):
            raise ValueError("prefill_beside_tok_s and chunk_tok go with a, b and prefill_tok_s")
        if self.profile is not None:
            raise ValueError("profile is read from a file's config only; here must be its figures, as models")
        for a_ns, b_ns in [(self.a_ns, self.b_ns), *((one.a_ns, one.b_ns) for one in (self.models or {}).values())]:
            if a_ns == b_ns == 0:
                raise ValueError("a and b must not both be 0")
        if self.name is not None and self.name not in CATALOGUE:
            raise ValueError(f"must be one of {', '.join(CATALOGUE)}, {{a, b, prefill_tok_s}} or {{profile: FILE}}")
        return self


class NodePrice(Section):
    """What a node asks."""

    input_nlai: Price
    """LAI per million prompt tokens."""
    output_nlai: PaidPrice
    """LAI per million output tokens."""


class Diurnal(Section):
    """A household's day: up daily for `up` from `start`, which each node shifts for good by its own draw in ± `jitter`."""

    start_ns: OfDay = 15 * HOUR_NS
    """Hour of day at which the median node comes up."""
    up_ns: OfDay = 12 * HOUR_NS
    """How long it stays up each day."""
    jitter_ns: OfDay = 4 * HOUR_NS
    """Largest shift of a node's start, drawn uniformly from ± this."""


_AVAILABILITY = "must be always, diurnal, {diurnal: {start, up, jitter}} or {on, off}"


def _availability(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value not in ("always", "diurnal"):
        raise ValueError(_AVAILABILITY)
    return {"diurnal": {}} if value == "diurnal" else {}


class Availability(Section):
    """When a node is there: `always`, `diurnal`, `{diurnal: {…}}`, or `{on, off}` with exponential times of these means."""

    diurnal: Diurnal | None = None
    """A daily schedule."""
    on_ns: Duration | None = None
    """Mean time there."""
    off_ns: Duration | None = None
    """Mean time away."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.on_ns is None) != (self.off_ns is None) or (self.on_ns is not None and self.diurnal is not None):
            raise ValueError(_AVAILABILITY)
        return self


class Failures(Section):
    """Crashes: exponential times of these means."""

    mtbf_ns: Duration
    """Mean time between a repair and the next failure."""
    mttr_ns: Duration
    """Mean time to repair."""


class NodePopulation(Section):
    """Nodes that are alike."""

    name: Name
    """Names the population in results and on the command line."""
    count: Count
    """Number of nodes."""
    kind: Kind = "llm"
    """Kind of the models it serves."""
    models: list[ModelName] = Field(min_length=1, max_length=64)
    """Models each node serves."""
    hardware: Annotated[Hardware, BeforeValidator(_hardware, json_schema_input_type=str | Hardware)]
    """Name in the catalogue, {a, b, prefill_tok_s}, or {profile: FILE} as measured."""
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)]
    """Requests a node decodes at once."""
    queue: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Requests that may wait for a slot."""
    price: NodePrice
    """What it asks."""
    bond_nlai: Lai
    """Bond of each node, LAI."""
    cluster: Name | None = None
    """Private cluster it belongs to; null for the public network."""
    availability: Annotated[
        Availability,
        BeforeValidator(_availability, json_schema_input_type=Literal["always", "diurnal"] | Availability),
    ] = Availability()
    """When its nodes are there."""
    failures: Failures | None = None
    """How its nodes crash; null for never."""
    network_delay_ns: Delay = 20_000_000
    """One way between Nexus and node."""

    def profile(self, model: str) -> Profile:
        """How fast one of its nodes serves `model`, one of its `models`."""
        return self.hardware.figures(model)


class Poisson(Section):
    """Arrivals at a constant rate."""

    requests_per_day: Annotated[float, Field(gt=0, le=1e9)]
    """Mean requests a day of the whole population."""


class Burst(Section):
    """A random factor on the rate, of mean 1, drawn anew each period: 0 with probability `silent`, else gamma."""

    cv: Annotated[float, Field(gt=0, le=100)]
    """Coefficient of variation of the factor."""
    period_ns: Annotated[Duration, Field(ge=NANO // 10)]
    """How long a draw holds."""
    silent: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that the factor is 0; the other draws make up for it."""

    @property
    def loud_cv2(self) -> float:
        """Squared coefficient of variation of the draws that are not 0."""
        return (1 + self.cv * self.cv) * (1 - self.silent) - 1

    @model_validator(mode="after")
    def _not_too_silent(self) -> Self:
        if self.loud_cv2 < -1e-9:
            raise ValueError(f"silent must be at most {1 - 1 / (1 + self.cv * self.cv):.4g}, which alone has this cv")
        return self


class Modulated(Section):
    """Poisson arrivals whose rate follows the hour of the day and is multiplied by random bursts."""

    requests_per_day: Annotated[float, Field(gt=0, le=1e9)]
    """Mean requests a day of the whole population."""
    hourly: list[Annotated[float, Field(ge=0, le=1e6)]] = Field(default=[1.0] * 24, min_length=24, max_length=24)
    """24 weights, midnight first; only their ratios count."""
    bursts: list[Burst] = Field(default=[], max_length=16)
    """Random bursts, each over periods of its own; their factors multiply."""

    @model_validator(mode="after")
    def _some_hour(self) -> Self:
        if not sum(self.hourly) > 0:
            raise ValueError("hourly must have a weight above 0")
        return self


class Sessions(Section):
    """Requests that belong together: turns of one user that share a prefix."""

    turns: Annotated[float, Field(gt=0, le=1e4)]
    """Mean turns of a session, Poisson; what has none is no session."""
    spread: Annotated[float, Field(ge=0, le=1e9)]
    """Requests of the whole population among which the turns of one session are scattered evenly."""


def _median(value: object) -> object:
    return value if isinstance(value, dict) else {"median": value}


class Quantiles(Section):
    """A law by points of its distribution function, between which the logarithm of the length is linear."""

    share: list[Annotated[float, Field(ge=0, le=1)]] = Field(min_length=2, max_length=64)
    """Shares of the requests, from 0 to 1 and never falling; two that are equal leave a gap between lengths."""
    tok: list[Annotated[float, Field(ge=0.5, le=MAX_TOKENS + 0.5)]] = Field(min_length=2, max_length=64)
    """Length below which each share lies, never falling; 7.5 stands for "at most 7 tokens"."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        whole = len(self.share) == len(self.tok) and (self.share[0], self.share[-1]) == (0, 1)
        if not whole or sorted(self.share) != self.share or sorted(self.tok) != self.tok:
            raise ValueError("must have as many share as tok, share from 0 to 1, neither ever falling")
        return self


class TokenLaw(Section):
    """A lognormal number of tokens, or one by `quantiles`; a plain number stands for that number always."""

    median: SomeTokens | None = None
    """Median, tokens."""
    sigma: Annotated[float, Field(ge=0, le=5)] = 0.0
    """Standard deviation of the logarithm."""
    quantiles: Quantiles | None = None
    """Points of the distribution function, in place of a median."""

    @model_validator(mode="after")
    def _one_law(self) -> Self:
        if (self.median is None) == (self.quantiles is None) or (self.median is None and self.sigma != 0):
            raise ValueError("must be a number of tokens, {median, sigma} or {quantiles}")
        return self


class Preset(Section):
    """A workload fitted to a trace: what `lattice trace fit` finds."""

    source: str
    """The trace, and whom to cite."""
    licence: str
    """The trace's licence."""
    modulated: Modulated
    """When requests arrive."""
    prompt: TokenLaw
    """How long prompts are."""
    output: TokenLaw
    """How long answers are."""
    sessions: Sessions | None = None
    """Which requests belong together; null where the trace does not say."""


PRESETS: dict[str, Preset] = {name: Preset.model_validate(fitted) for name, fitted in FITTED.items()}
"""Presets that ship, by name."""

PresetName = Annotated[str, Text("|".join(map(re.escape, PRESETS)), f"one of {', '.join(PRESETS)}")]


class Workload(Section):
    """When requests arrive: exactly one of `poisson`, `modulated`, `preset` and `trace`."""

    poisson: Poisson | None = None
    """A constant rate."""
    modulated: Modulated | None = None
    """A rate that changes."""
    preset: PresetName | None = None
    """Name of a workload that was fitted to a trace and ships; it brings lengths, and sessions where the trace had any."""
    trace: FilePath | None = None
    """File of arrivals with their tokens, Parquet or CSV; it begins at t = 0 and plays once."""
    scale: Annotated[float, Field(gt=0, le=1e3)] = 1.0
    """Factor on the rate of arrivals; a trace is played that much faster."""
    stretch: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    """Factor on all gaps between arrivals and on the periods of bursts, a trace's included; hours of the day stay."""
    sessions: Sessions | None = None
    """Which requests belong together; null for none, or for what a preset says. A trace brings its own."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.poisson, self.modulated, self.preset, self.trace].count(None) != 3:
            raise ValueError("must have exactly one of poisson, modulated, preset, trace")
        if self.trace is not None and self.sessions is not None:
            raise ValueError("must have no sessions beside a trace, which brings its own")
        return self

    @property
    def fitted(self) -> Preset | None:
        """What its preset says; None without one."""
        return None if self.preset is None else PRESETS[self.preset]

    @property
    def rhythm(self) -> Poisson | Modulated | None:
        """The rate of arrivals before `scale` and `stretch`; None for a trace."""
        return self.fitted.modulated if self.fitted else self.poisson or self.modulated


class LognormalDuration(Section):
    """A lognormal duration; a plain duration stands for that duration always."""

    median_ns: Duration
    """Median."""
    sigma: Annotated[float, Field(ge=0, le=5)] = 0.0
    """Standard deviation of the logarithm."""


class RequestTokens(Section):
    """How long prompts and answers are. Draws are cut off at 1 and at what the context leaves."""

    prompt: Annotated[TokenLaw, BeforeValidator(_median, json_schema_input_type=int | TokenLaw)] | None = None
    """Prompt; a trace brings its own, a preset one unless it is given."""
    output: Annotated[TokenLaw, BeforeValidator(_median, json_schema_input_type=int | TokenLaw)] | None = None
    """Answer, which only the serving node learns; a trace brings its own, a preset one unless it is given."""
    max_tokens: SomeTokens
    """Longest answer the user asks for, and pays a reservation for."""


class Budget(Section):
    """What each user can spend."""

    deposit_nlai: Lai = 0
    """Escrowed at the start, LAI."""
    wallet_nlai: Lai = 0
    """Held outside the escrow at the start, LAI."""
    top_up_nlai: Lai = 0
    """At each epoch, escrow with less free than this gets this much from the wallet, LAI."""
    withdraw_above_nlai: Lai | None = None
    """At each epoch, free escrow above this is asked back into the wallet, LAI; null for never."""
    faucet_nlai: Lai = 0
    """Spend-only credit granted at the start, LAI."""

    @property
    def total_nlai(self) -> int:
        """All that a user is given at the start."""
        return self.deposit_nlai + self.wallet_nlai + self.faucet_nlai

    @model_validator(mode="after")
    def _some_money(self) -> Self:
        if not (self.deposit_nlai or self.faucet_nlai or min(self.wallet_nlai, self.top_up_nlai)):
            raise ValueError("must hold a deposit, faucet credit, or a wallet with a top_up")
        return self


def _mix(value: object) -> object:
    return {value: 1.0} if isinstance(value, str) else value


class UserPopulation(Section):
    """Users that are alike."""

    name: Name
    """Names the population in results and on the command line."""
    count: Annotated[int, Field(ge=1, le=10_000_000)]
    """Number of users."""
    model: Annotated[
        dict[ModelName, Annotated[float, Field(gt=0, le=1e6)]],
        InOrder,
        BeforeValidator(_mix, json_schema_input_type=str | dict[str, float]),
    ] = Field(min_length=1, max_length=64)
    """Model they ask for, or several with weights."""
    workload: Workload
    """When their requests arrive."""
    tokens: RequestTokens
    """How long prompts and answers are."""
    budget: Budget
    """What each of them can spend."""
    patience: (
        Annotated[LognormalDuration, BeforeValidator(_median, json_schema_input_type=str | float | LognormalDuration)] | None
    ) = None
    """Longest wait for the first token before the user leaves; null for ever."""
    deadline_ns: Duration = 10 * MINUTE_NS
    """Longest time for the whole answer."""
    max_fee_nlai: SomeLai | None = None
    """Most that a request may cost, LAI; null for what the account holds."""
    privacy: Literal["public", "cluster", "local"] = "public"
    """Where requests may be served: anywhere public, or only in the user's cluster."""
    cluster: Name | None = None
    """Private cluster they belong to."""
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a user asks again after a failure."""

    @property
    def prompt(self) -> TokenLaw | None:
        """How long prompts are: as asked for, or as its preset says; None for a trace."""
        return self.tokens.prompt or (self.workload.fitted.prompt if self.workload.fitted else None)

    @property
    def output(self) -> TokenLaw | None:
        """How long answers are, likewise."""
        return self.tokens.output or (self.workload.fitted.output if self.workload.fitted else None)

    @property
    def sessions(self) -> Sessions | None:
        """Which requests belong together, likewise; None for none."""
        return self.workload.sessions or (self.workload.fitted.sessions if self.workload.fitted else None)


class Cluster(Section):
    """A private cluster: only users who name it may use the nodes that name it."""

    name: Name
    """What nodes and users call it."""


class Supply(Section):
    """The token's supply."""

    genesis_nlai: Lai = to_nlai(1_000_000_000)
    """LAI minted at the start; deposits, wallets, credit and bonds come out of it."""


class Split(Section):
    """Where a node's gross goes: each share is taken of what the earlier ones left, the operator keeps the rest."""

    burn_ppm: Share = 10_000
    """Burned."""
    treasury_ppm: Share = 40_000
    """To the treasury."""
    treasury_ceiling_nlai: Lai = to_nlai(10_000_000)
    """Treasury balance above which its share is 0, LAI."""
    auditors_ppm: Share = 20_000
    """To those who audit."""
    delegators_ppm: Share = 0
    """To the node's delegators."""


class Bonds(Section):
    """What nodes put up."""

    minimum_nlai: Lai = to_nlai(100)
    """Least bond with which a node is routed to, LAI."""
    reference_nlai: SomeLai = to_nlai(500)
    """Bond at which the bond factor is 1 − 1/e, LAI."""
    thaw_ns: ChainDelay = 7 * DAY_NS
    """Time from unbonding to withdrawal, in which a bond can still be slashed."""


class Registration(Section):
    """What a node burns to join: the price rises with each join and halves over time."""

    floor_nlai: Lai = to_nlai(1)
    """Least price, LAI."""
    rise_ppm: Share = 20_000
    """By how much a join raises the price of the next."""
    half_life_ns: ChainDelay = DAY_NS
    """Time in which the price halves, down to the floor."""


class Faucet(Section):
    """Spend-only credit for newcomers: one budget for all, which the treasury is endowed with at the start."""

    budget_nlai: Lai | None = None
    """What may be granted, LAI; null for what the populations are granted at the start."""
    half_life_ns: ChainDelay = 30 * DAY_NS
    """Time in which what is left of it halves."""


class Slashing(Section):
    """What misconduct costs."""

    equivocation_ppm: Share = 500_000
    """Part of the stake that two different signed answers to one request cost."""
    proposal_ppm: Share = 100_000
    """Largest part of the stake that an oracle may propose to take."""
    reporter_ppm: HalfShare = 100_000
    """Part of what is taken that goes to who reported it; the rest is burned."""
    appeal_ns: ChainDelay = 3 * DAY_NS
    """Time to appeal against a proposal, and again for the owner to decide."""


class Bonus(Section):
    """A pool that is shared among nodes by work, uptime and quality, over and above fees."""

    per_day_nlai: Lai = 0
    """What the pool gains a day, LAI: from the treasury, and minted where that does not reach."""
    returned_ppm: ProperShare = 900_000
    """Most of what was burned of a node's purchased fees that comes back to it: less than 1, so that paying oneself costs."""
    window_ns: ChainDelay = HOUR_NS
    """Time in which the owner may reject an oracle's weights."""


class Economics(Section):
    """The token, and who gets what."""

    peg: Literal["lai"] = "lai"
    """Unit in which prices hold still."""
    supply: Supply = Supply()
    split: Split = Split()
    bonds: Bonds = Bonds()
    registration: Registration = Registration()
    faucet: Faucet = Faucet()
    slashing: Slashing = Slashing()
    bonus: Bonus = Bonus()


class Breaker(Section):
    """When a failing node is left alone."""

    failures: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Failures in a row that open it."""
    open_ns: Duration = 30 * NANO
    """How long it stays open before the node is tried again."""
    successes: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    """Successes that close it."""
    max_ejected: Probability = 0.10
    """Largest share of a group that may be ejected; one node always may."""


class Exponents(Section):
    """Exponents of the factors of `score_sampled`; a policy of one's own gets them as its parameters."""

    quality: Annotated[float, Field(ge=0, le=16)] = 2.0
    """Of the audited quality."""
    reliability: Annotated[float, Field(ge=0, le=16)] = 4.0
    """Of the share of successes."""
    latency: Annotated[float, Field(ge=0, le=16)] = 1.0
    """Of the latency factor g."""
    price: Annotated[float, Field(ge=0, le=16)] = 1.0
    """Of base price over price."""
    bond: Annotated[float, Field(ge=0, le=16)] = 0.25
    """Of the bond factor h."""


class Routing(Section):
    """How the Nexus chooses a node."""

    policy: PolicyName = "score_sampled"
    """A built-in one, or one's own as module:Name."""
    candidates: Annotated[int, Field(ge=1, le=64)] | None = None
    """Nodes drawn for a decision, by a policy that draws; null for the policy's own number."""
    weights: Exponents = Exponents()
    explore: Probability = 0.03
    """Probability that one candidate comes from the under-observed."""
    under_observed: Annotated[int, Field(ge=0, le=1_000_000)] = 30
    """Results below which an offer counts as under-observed."""
    retries: Annotated[int, Field(ge=0, le=16)] = 2
    """Attempts after the first that the Nexus makes at other nodes."""
    resume: bool = True
    """Whether another node goes on with an answer that has begun; else a failure after the first token ends the request."""
    newcomer_cap: Annotated[float, Field(ge=0, le=1e6)] = 8.0
    """c0: a node may have c0·(1 + audits passed/newcomer_verified) requests in flight; 0 for no cap."""
    newcomer_verified: Annotated[float, Field(gt=0, le=1e9)] = 50.0
    """Passed audits that double this cap."""
    refresh_ns: Duration = MINUTE_NS
    """How often an offer's quality is drawn anew (Thompson)."""
    latency_tau_ns: Duration = 10 * NANO
    """Time constant of the Peak-EWMA."""
    reservation_ns: Duration = 15 * MINUTE_NS
    """How long money stays reserved for a request that is never answered."""
    breaker: Breaker = Breaker()


class Reputation(Section):
    """What the Nexus makes of its observations."""

    fast_half_life_ns: Duration = MINUTE_NS
    """Half-life of the fast reliability count."""
    slow_half_life_ns: Duration = HOUR_NS
    """Half-life of the slow one."""
    fast_weight: Probability = 0.8
    """Weight of the fast count, the slow one has the rest."""
    prior_reliability: Probability = 0.9
    """Reliability of a node without results."""
    prior_count: Annotated[float, Field(gt=0, le=1e9)] = 5.0
    """Results that this prior is worth."""
    quality_mean: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Mean of the quality prior: newcomers pay dues."""
    quality_weight: Annotated[float, Field(ge=0.1, le=1e9)] = 10.0
    """Audits that this prior is worth."""
    quality_half_life_ns: Duration = 7 * 24 * HOUR_NS
    """Half-life of an audit."""
    history: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Audits that each node has passed before the start."""
    probe_interval_ns: Duration = MINUTE_NS
    """Mean time between a node's health probes."""
    audit_rate: Probability = 0.005
    """Probability that a request is audited."""


class Chain(Section):
    """Where money moves."""

    backend: Literal["py-evm", "revm", "rpc"] = "py-evm"
    """Implementation of the EVM: exact gas, fast, or a node's JSON-RPC."""
    url: Annotated[str, Text(r"https?://.+", "an http or https URL")] = "http://127.0.0.1:8545"
    """Where the node listens; only rpc reads it."""
    epoch_ns: Duration = HOUR_NS
    """Time between settlements."""
    chunk_users: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_000
    """Users in one settlement transaction, whose gas cap a chain keeps to: 1,000 at most."""
    grace_epochs: Annotated[int, Field(ge=1, le=8)] = 2
    """Epochs after its end in which an epoch's batch may settle."""
    collection_epochs: Annotated[int, Field(ge=1, le=48)] = 48
    """Epochs after that in which vouchers may be collected."""
    challenge_ns: ChainDelay = HOUR_NS
    """Time in which an oracle's report on the nodes may be overruled."""
    gas_price_gwei: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    """Price of gas, in gwei."""
    eth_usd: Annotated[float, Field(ge=0, le=1e9)] = 3_000.0
    """Price of ETH, in dollars."""


class Sim(Section):
    """What only simulation reads."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 24
    """Epochs to run."""
    engine: Literal["compiled", "reference"] = "compiled"
    """Which engine runs them: one loop of compiled code, or the readable one that it equals to the byte."""
    horizon: Literal["terminating", "steady"] = "terminating"
    """Whether figures are of the whole run, or of what comes behind its warm-up."""
    start_hour: Annotated[float, Field(ge=0, lt=24)] = 0.0
    """Hour of day at t = 0."""


class Timeouts(Section):
    """How long the Nexus waits for a node before it asks another; a request's whole time is its deadline."""

    connect_ns: Duration = 2 * NANO
    """For a connection."""
    first_token_ns: Duration = 30 * NANO
    """From there to the first token: ample for a full queue before a small model. Chosen."""
    idle_ns: Duration = 30 * NANO
    """For anything more of an answer that has begun."""


class Live(Section):
    """What only live mode reads."""

    listen: Address = "127.0.0.1:8080"
    """Address and port; port 0 takes a free one."""
    launch: Annotated[dict[Name, Annotated[int, Field(ge=0, le=10_000)]], InOrder] = {}
    """Node processes to start, by population."""
    timeouts: Timeouts = Timeouts()
    max_open: Annotated[int, Field(ge=1, le=1_000_000)] = 1_024
    """Requests under way at once; more are told to come back."""
    tls: bool = False
    """Whether the Nexus has a certificate and nodes show it theirs; without, nodes must be on this machine."""


class Config(Section):
    """A network. `parse` and `revise` make one; they also check what no single section can see."""

    version: Literal[1]
    """Version of this format."""
    name: Name
    """Names the network and its run directories."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Key of every random stream."""
    models: Annotated[dict[ModelName, Model], InOrder] = Field(min_length=1)
    """Models the network serves, by name."""
    nodes: list[NodePopulation] = Field(min_length=1)
    """Node populations."""
    users: list[UserPopulation] = Field(min_length=1)
    """User populations."""
    clusters: list[Cluster] = []
    """Private clusters."""
    economics: Economics = Economics()
    routing: Routing = Routing()
    reputation: Reputation = Reputation()
    chain: Chain = Chain()
    sim: Sim = Sim()
    live: Live = Live()

    def document(self) -> dict[str, Any]:
        """The config as a YAML's data with every default filled in; reading it gives the same config."""
        return self.model_dump(mode="json", by_alias=True)

    def canonical(self) -> str:
        """`document()` as JSON with sorted keys: equal configs, equal text."""
        return json.dumps(self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def sha256(self) -> str:
        """The config's hash, in hex."""
        return sha256(self.canonical().encode()).hexdigest()

    @property
    def granted_nlai(self) -> int:
        """Faucet credit that all users together are granted at the start."""
        return sum(users.count * users.budget.faucet_nlai for users in self.users)

    @property
    def faucet_budget_nlai(self) -> int:
        """What the faucet may grant in all, with which the treasury is endowed at the start."""
        budget_nlai = self.economics.faucet.budget_nlai
        return self.granted_nlai if budget_nlai is None else budget_nlai

    def population(self, name: str) -> NodePopulation:
        """The node population of that name; KeyError when there is none."""
        return {population.name: population for population in self.nodes}[name]
