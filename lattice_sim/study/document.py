"""What a study's YAML may say: a question to a network, the factors that are varied, and how often it is asked.

version: 1
sweep:
  name: price-weight
  question: Does weighing price more make users pay less?
  base: baseline.yaml                        # a network; relative to this file, or one that ships with lattice
  set: {sim.epochs: 6}                       # changes of every point, as `--set` takes them
  factors:
    routing.weights.price: [0.5, 1, 2]       # levels,
    users.chat.count: {from: 1500, to: 2500} # or a range
  design: grid
  replications: 8
  metrics: [ttft_p95_s, revenue_gini]
"""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from lattice_core.config import Config, ConfigError, revise
from lattice_core.config.document import assign, plain, show
from lattice_core.config.network import Name, Section
from lattice_core.config.quantities import Delay
from lattice_core.config.text import load
from lattice_core.units import to_s
from lattice_sim import networks

METRICS = (
    "completed_share",
    "rejected_share",
    "ttft_p50_s",
    "ttft_p95_s",
    "latency_p95_s",
    "output_tok_per_s",
    "utilisation",
    "charged_nlai",
    "revenue_gini",
    "gas_per_user",
)
"""Those that a study records unless it names its own."""


class Range(Section):
    """All values between two."""

    low: Annotated[float, Field(alias="from")]
    high: Annotated[float, Field(alias="to")]
    scale: Literal["linear", "log"] = "linear"
    """Whether equal steps add or multiply."""
    whole: bool | None = None
    """Whether values are whole numbers; null where the network takes no others."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError("from must be less than to")
        if self.scale == "log" and self.low <= 0:
            raise ValueError("from must be more than 0 for scale: log")
        return self


type Point = dict[str, Any]
"""A value for each factor, by dotted path."""

type Factor = Range | Annotated[list[Any], Field(min_length=1)]
"""Levels, or all values between two."""


class LatinHypercube(Section):
    """Points of which each factor's values fill its range evenly."""

    latin_hypercube: Annotated[int, Field(ge=1, le=1_000_000)]
    """Points."""


class Sobol(Section):
    """Points that fill the space of all factors evenly: a scrambled Sobol sequence."""

    sobol: Annotated[int, Field(ge=1, le=1_000_000)]
    """Points; a power of two keeps the balance."""


class HalfWidth(Section):
    """When there are replications enough."""

    metric: str
    """Whose mean is to be known, at every point."""
    half_width: Annotated[float, Field(gt=0)] | Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]+)? ?%$")]
    """Half of its interval, in the metric's unit, or as a share such as 5 %."""

    @property
    def target(self) -> tuple[float, bool]:
        """The half width, and whether it is a share of the mean."""
        if isinstance(self.half_width, str):
            return float(self.half_width.rstrip(" %")) / 100.0, True
        return self.half_width, False


class Until(Section):
    """Replications until an interval is narrow enough."""

    until: HalfWidth
    most: Annotated[int, Field(ge=2, le=100_000)] = 256


class Question(Section):
    """What all kinds of study say."""

    name: Name
    question: str = ""
    """One sentence, which the report begins with."""
    base: Annotated[str, Field(min_length=1)]
    """The network: a YAML file relative to this one, or the name of one that ships with lattice."""
    set: dict[str, Any] = Field(default={})
    """Changes of every point, by dotted path."""
    factors: Annotated[dict[str, Factor], Field(min_length=1)]
    """What is varied, by dotted path."""
    metrics: list[str] = Field(default=list(METRICS), min_length=1)
    """What is recorded of a run: names of docs/metrics.md."""
    replications: Annotated[int, Field(ge=1, le=100_000)] | Until = 8
    """Runs of each point, each with random numbers of its own."""
    seeds: Literal["common", "independent"] = "common"
    """Whether replication r has the same random numbers at all points, which makes differences between them sharper."""

    @property
    def recorded(self) -> list[str]:
        """All metrics that are recorded of a run."""
        return self.metrics

    @field_validator("replications", mode="before")
    @classmethod
    def _number_or_until(cls, value: Any) -> Any:
        if isinstance(value, int | dict):
            return value
        raise ValueError("must be a number, or {until: {metric, half_width}, most: N}")

    @field_validator("factors", mode="before")
    @classmethod
    def _levels_or_range(cls, factors: Any) -> Any:
        for path, factor in factors.items() if isinstance(factors, dict) else ():
            if not isinstance(factor, list | dict):
                raise ValueError(f"{path}: must be a list of levels, or {{from, to}}, not {show(factor)}")
        return factors

    @field_validator("factors", mode="after")
    @classmethod
    def _not_the_seed(cls, factors: dict[str, Any]) -> dict[str, Any]:
        if "seed" in factors:
            raise ValueError("seed is not a factor: replications have seeds of their own")
        return factors


class Sweep(Question):
    """Points of a design, compared."""

    design: Literal["grid"] | LatinHypercube | Sobol = "grid"

    @field_validator("design", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value == "grid" or (isinstance(value, dict) and list(value) in (["latin_hypercube"], ["sobol"])):
            return value
        raise ValueError("must be grid, {latin_hypercube: N} or {sobol: N}")

    @model_validator(mode="after")
    def _grid_of_levels(self) -> Self:
        ranges = [path for path, factor in self.factors.items() if isinstance(factor, Range)]
        if self.design == "grid" and ranges:
            raise ValueError(f"factors: {ranges[0]} must be levels for design: grid, or the design another")
        return self


class Sensitivity(Question):
    """Which factors matter, and how much."""

    method: Literal["morris", "sobol"]
    """Elementary effects, for a first look at many factors; or shares of the variance."""
    samples: Annotated[int, Field(ge=8, le=1_000_000)] = 64
    """Runs of morris are factors + 1 for each, of sobol factors + 2, times the replications; for sobol a power of two."""
    levels: Annotated[int, Field(ge=2, le=100, multiple_of=2)] = 4
    """Values of each factor, for morris."""
    replications: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Runs of each point, the mean of which is looked at."""

    @model_validator(mode="after")
    def _balanced(self) -> Self:
        if self.method == "sobol" and self.samples & (self.samples - 1):
            raise ValueError(f"samples: must be a power of two for method: sobol, not {self.samples}")
        return self


class Objective(Section):
    """A metric that should be as small, or as great, as can be."""

    minimise: str | None = None
    maximise: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.minimise is None) == (self.maximise is None):
            raise ValueError("must be {minimise: METRIC} or {maximise: METRIC}")
        return self

    @property
    def metric(self) -> str:
        return self.minimise or self.maximise or ""

    @property
    def sign(self) -> float:
        """What makes a cost of the metric: the less the better."""
        return -1.0 if self.minimise is None else 1.0


type Limit = float | Annotated[str, Field(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})? ?(d|h|m|s|ms)$")]


class Bounds(Section):
    """Where a metric must stay: a number in its unit or, in seconds, a duration."""

    most: Limit | None = None
    least: Limit | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.most is None and self.least is None:
            raise ValueError("must be {most: VALUE} or {least: VALUE}")
        return self


class Constraint(NamedTuple):
    """What a metric must not exceed or, with `sign` −1, fall below."""

    metric: str
    sign: float
    limit: float

    def violation(self, value: float) -> float:
        """How far `value` is on the wrong side, as a share of the limit; 0 or less on the right one."""
        return self.sign * (value - self.limit) / (abs(self.limit) or 1.0)


class Prune(Section):
    """When a trial is given up before its last epoch."""

    after: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    """The numbers of epochs after which it is looked at."""
    margin: Annotated[float, Field(ge=0, le=1_000)] = 0.1
    """By which share of its limit a constraint must be broken there."""
    beaten_by: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Or how many earlier trials, with all constraints kept, must be better there in every objective."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.after != sorted(set(self.after)):
            raise ValueError(f"after: must rise, not {show(self.after)}")
        return self


class Scenario(Section):
    """A world in which a point must do well."""

    name: Name
    set: dict[str, Any] = Field(default={})
    """Changes of the network, by dotted path."""


class HeldOut(Section):
    """What the search never sees, to judge its choice by."""

    seeds: Annotated[int, Field(ge=2, le=10_000)] = 16
    """Runs of either side in each scenario."""
    scenarios: list[Scenario] = Field(default=[])
    """Other worlds; none for those of the search."""


class Tune(Question):
    """Which values of the factors are best."""

    objectives: Annotated[list[Objective], Field(min_length=1, max_length=4)]
    constraints: list[Annotated[dict[str, Bounds], Field(min_length=1, max_length=1)]] = Field(default=[])
    trials: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Points that are tried beside the defaults."""
    parallel: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Points that are tried at once: the sampler sees what came of them when all have ended, whatever the number of workers."""
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    prune: Prune | None = None
    scenarios: list[Scenario] = Field(default=[])
    """Worlds in which each point is tried; none for the network as it is."""
    robust: Literal["worst", "mean"] = "worst"
    """What counts of a metric's means over replications, one for each scenario."""
    choose: Literal["knee", "first"] = "knee"
    """Of the front's trials that beat the defaults in something and are worse in nothing, or of all if there are none: the one
    nearest to the best of every objective, each scaled to its range on the front; or the best in the first objective."""
    held_out: HeldOut = HeldOut()
    defaults_sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]
    """The hash of the base, or how it begins, as `lattice check` prints it: the defaults stand before the study is written."""
    replications: Annotated[int, Field(ge=1, le=100_000)] = 2
    """Runs of each point in each scenario, the same seeds for all."""
    metrics: list[str] = Field(default=[])
    """What is recorded beside objectives and constraints."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.seeds != "common":
            raise ValueError("seeds: must be common, so that trials are compared in pairs, not independent")
        aims = [objective.metric for objective in self.objectives]
        if len(set(aims)) < len(aims):
            raise ValueError(f"objectives: must name each metric once, not {', '.join(aims)}")
        for key, scenarios in (("scenarios", self.scenarios), ("held_out.scenarios", self.held_out.scenarios)):
            names = [scenario.name for scenario in scenarios]
            if len(set(names)) < len(names):
                raise ValueError(f"{key}: must have a name each, not {', '.join(names)}")
            if "all" in names:
                raise ValueError(f"{key}: must not be named all, which stands for the mean over them")
            for scenario in scenarios:
                if both := [path for path in scenario.set if path in self.factors or path in ("seed", "sim.epochs")]:
                    raise ValueError(f"{key}: {scenario.name}: must not set {both[0]}, which the study does")
        for bounds in self.constraints:
            for metric, bound in bounds.items():
                for limit in (bound.most, bound.least):
                    if isinstance(limit, str) and not metric.endswith("_s"):
                        raise ValueError(f"constraints: {metric}: must be a number, not the duration {limit}")
        return self

    @property
    def recorded(self) -> list[str]:
        """All metrics that are recorded of a run."""
        aims = (objective.metric for objective in self.objectives)
        return list(dict.fromkeys([*aims, *(constraint.metric for constraint in self.bounds), *self.metrics]))

    @property
    def bounds(self) -> list[Constraint]:
        """The constraints, one by one."""
        return [
            Constraint(metric, sign, _seconds(limit) if isinstance(limit, str) else limit)
            for bounds in self.constraints
            for metric, bound in bounds.items()
            for sign, limit in ((1.0, bound.most), (-1.0, bound.least))
            if limit is not None
        ]


def _seconds(duration: str) -> float:
    """A duration such as 250ms or 2 s, in seconds."""
    return to_s(TypeAdapter(Delay).validate_python(duration.replace(" ", "")))


class Study(NamedTuple):
    """A study as it was read: its kind, what it says, and its base with `set`."""

    kind: str
    asked: Question
    base: Config
    source: str

    def document(self) -> dict[str, Any]:
        """The study as a YAML's data, defaults filled in."""
        return {"version": 1, self.kind: self.asked.model_dump(mode="json", by_alias=True)}


KINDS: dict[str, type[Question]] = {"sweep": Sweep, "sensitivity": Sensitivity, "tune": Tune}


def read_study(path: str | Path, kind: str, overrides: Sequence[str] = ()) -> Study:
    """The study of `kind` in a file, with `overrides` of what it says, such as `replications=2`. Raises ConfigError."""
    source = str(path)
    data = load(networks.read_text(path), source)
    if not isinstance(data, dict) or type(data.get("version")) is not int or data["version"] != 1:
        raise ConfigError(f"{source}: must be a mapping with version: 1 and one of {', '.join(KINDS)}")
    if set(data) != {"version", kind} or not isinstance(data[kind], dict):
        others = ", ".join(key for key in data if key != "version") or "nothing"
        raise ConfigError(f"{source}: must have, beside version, the mapping {kind}, not {others}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: must be KEY=VALUE, such as replications=2")
        section, dot, at = key.partition(".")
        if dot and section in ("set", "factors"):  # whose own keys have dots
            assign(data[kind], section, (data[kind].get(section) or {}) | {at: load(value, f"--set {key}")})
        else:
            assign(data[kind], key, load(value, f"--set {key}"))
    try:
        asked = KINDS[kind].model_validate(data[kind])
    except ValidationError as error:
        raise ConfigError(f"{source}: {kind}: {_line(error, data[kind], KINDS[kind])}") from error
    study = Study(kind, *_founded(asked, Path(path), source, kind), source)
    _check_metrics(study)
    return study


def _line(error: ValidationError, data: dict[str, Any], kind: type[Question]) -> str:
    """What is wrong, as `key: what is wrong and what is allowed`; where there is a choice of types, by the nearest of them."""

    def found(detail: ErrorDetails) -> tuple[bool, int]:
        return detail["type"] not in ("missing", "extra_forbidden"), len(_path(detail, data))

    detail = max(error.errors(include_url=False), key=found)
    path, last = _path(detail, data), str(detail["loc"][-1]) if detail["loc"] else ""
    key = ".".join(path)
    if detail["type"] == "missing":
        described = None if path else next(f.description for n, f in kind.model_fields.items() if last in (n, f.alias))
        return f"{'.'.join([*path, last])}: missing{'. ' + described if described else ''}"
    if detail["type"] == "extra_forbidden":
        allowed = f"; allowed: {', '.join(field.alias or name for name, field in kind.model_fields.items())}"
        return f"{key}: unknown key{allowed if len(path) == 1 else ''}"
    shown = "" if ", not " in detail["msg"] else f", not {show(detail['input'])}"
    return f"{key + ': ' if key else ''}{plain(detail)}{shown if key else ''}"


def _path(detail: ErrorDetails, data: Any) -> list[str]:
    """The keys at which an error is, without the names of types that are between them where there is a choice."""
    path: list[str] = []
    for step in detail["loc"]:
        if (isinstance(data, dict) and step in data) or (isinstance(data, list) and isinstance(step, int)):
            data = data[step]  # type: ignore[index]
            path.append(str(step))
    return path


def base_file(asked: Question, source: str | Path) -> Path:
    """The file of the network that a study in the file `source` begins with. Raises ConfigError."""
    beside = Path(os.path.normpath(Path(source).parent / asked.base))
    return networks.find(beside if beside.is_file() else asked.base)


def _founded(asked: Question, path: Path, source: str, kind: str) -> tuple[Question, Config]:
    """What is asked, and the network, of which every factor is a key."""
    base = networks.read(base_file(asked, path))
    try:
        config = revise(base, asked.set)
        networks.check(config, asked.base)
        if config.chain.backend == "rpc":
            raise ConfigError("chain.backend: must be py-evm or revm, of which each run has its own, not rpc")
        factors = {path: _checked(config, path, factor) for path, factor in asked.factors.items()}
    except ConfigError as error:
        lines = (line.removeprefix("--set").lstrip(": ") for line in str(error).splitlines())
        raise ConfigError("\n".join(f"{source}: {kind}: {line}" for line in lines)) from error
    if isinstance(asked, Tune):
        _check_tune(asked, base, config, f"{source}: {kind}")
    return asked.model_copy(update={"factors": factors}), config


def _checked(config: Config, path: str, factor: Factor) -> Factor:
    """The factor, of which the config takes every level, or both ends; of a range it is known then whether it is whole."""
    if not isinstance(factor, Range):
        for level in factor:
            changed = revise(config, {path: level})
            if _named(changed) != _named(config):
                networks.check(changed, path)
        return factor
    whole = factor.whole
    if whole is None:
        try:
            revise(config, {path: factor.low})
            whole = False
        except ConfigError:
            whole = True
    for end in (factor.low, factor.high):
        revise(config, {path: round(end) if whole else end})
    return factor.model_copy(update={"whole": whole})


def _named(config: Config) -> tuple[str | None, ...]:
    """What a config only names: its policy and its traces."""
    return config.routing.policy, *(users.workload.trace for users in config.users)


def _check_tune(asked: Tune, base: Config, config: Config, where: str) -> None:
    """Raises ConfigError for other defaults than those of the study, and for scenarios or stages that the network refuses."""
    if not base.sha256().startswith(asked.defaults_sha256):
        raise ConfigError(
            f"{where}.defaults_sha256: must be the hash of {asked.base}, {base.sha256()[:8]}, not {asked.defaults_sha256[:8]}: "
            "the defaults stand before the study is written"
        )
    if asked.prune is not None and asked.prune.after[-1] >= config.sim.epochs:
        raise ConfigError(
            f"{where}.prune.after: must be below sim.epochs, {config.sim.epochs}, not {asked.prune.after[-1]}"
        )  # fmt: skip
    for scenario in (*asked.scenarios, *asked.held_out.scenarios):
        try:
            networks.check(revise(config, scenario.set), asked.base)
        except ConfigError as error:
            line = str(error).splitlines()[0].removeprefix("--set").lstrip(": ")
            raise ConfigError(f"{where}.scenarios: {scenario.name}: {line}") from error


def _check_metrics(study: Study) -> None:
    """Raises ConfigError for a metric that no run has."""
    from lattice_sim.study.task import metric_names  # pandas takes half a second

    asked, where = study.asked, f"{study.source}: {study.kind}"
    known = metric_names(study.base)
    for metric in asked.recorded:
        if metric not in known:
            near = difflib.get_close_matches(metric, known, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"{where}.metrics: {metric} is not recorded; {meant}allowed: {', '.join(known)}")
    if isinstance(asked.replications, Until) and asked.replications.until.metric not in asked.metrics:
        allowed = ", ".join(asked.metrics)
        raise ConfigError(
            f"{where}.replications.until.metric: must be one of metrics, {allowed}, not {asked.replications.until.metric}"
        )
