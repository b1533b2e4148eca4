"""What a study's YAML may say: a question to a network, the factors that are varied, and how often it is asked.

    version: 1
    sweep:
      name: price-weight
      question: Does weighing price more make users pay less?
      base: baseline.yaml                        # a network; relative to this file, or one that ships with lattice
      set: {sim.epochs: 6}                       # changes of every point, as `--set` takes them
      factors:
        routing.weights.price: [0.5, 1, 2]       # levels,
        users.chat.count: {from: 1500, to: 2500, whole: true}   # or a range
      design: grid
      replications: 8
      metrics: [ttft_p95_s, revenue_gini]
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from lattice_core.config import Config, ConfigError, revise
from lattice_core.config.document import assign, plain, show
from lattice_core.config.network import Name, Section
from lattice_core.config.text import load
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
    whole: bool = False
    """Whether values are whole numbers."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError("from must be less than to")
        if self.scale == "log" and self.low <= 0:
            raise ValueError("from must be more than 0 for scale: log")
        return self


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
    set: dict[str, Any] = {}
    """Changes of every point, by dotted path."""
    factors: Annotated[dict[str, Factor], Field(min_length=1)]
    """What is varied, by dotted path."""
    metrics: Annotated[list[str], Field(min_length=1)] = list(METRICS)
    """What is recorded of a run: names of docs/metrics.md."""
    replications: Annotated[int, Field(ge=1, le=100_000)] | Until = 8
    """Runs of each point, each with random numbers of its own."""
    seeds: Literal["common", "independent"] = "common"
    """Whether replication r has the same random numbers at all points, which makes differences between them sharper."""

    @field_validator("factors", mode="after")
    @classmethod
    def _not_the_seed(cls, factors: dict[str, Any]) -> dict[str, Any]:
        if "seed" in factors:
            raise ValueError("seed is not a factor: replications have seeds of their own")
        return factors


class Sweep(Question):
    """Points of a design, compared."""

    design: Literal["grid"] | LatinHypercube | Sobol = "grid"

    @model_validator(mode="after")
    def _grid_of_levels(self) -> Self:
        ranges = [path for path, factor in self.factors.items() if isinstance(factor, Range)]
        if self.design == "grid" and ranges:
            raise ValueError(f"factors: {ranges[0]} must be levels for design: grid, or the design another")
        return self


class Study(NamedTuple):
    """A study as it was read: its kind, what it says, and its base with `set`."""

    kind: str
    asked: Question
    base: Config
    source: str

    def document(self) -> dict[str, Any]:
        """The study as a YAML's data, defaults filled in."""
        return {"version": 1, self.kind: self.asked.model_dump(mode="json", by_alias=True)}


KINDS: dict[str, type[Question]] = {"sweep": Sweep}


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
        assign(data[kind], key, load(value, f"--set {key}"))
    try:
        asked = KINDS[kind].model_validate(data[kind])
    except ValidationError as error:
        raise ConfigError(f"{source}: {kind}: {_line(error.errors(include_url=False)[0], data[kind], KINDS[kind])}") from error
    study = Study(kind, asked, _base(asked, Path(path), source, kind), source)
    _check_metrics(study)
    return study


def _line(detail: ErrorDetails, data: dict[str, Any], kind: type[Question]) -> str:
    """One error of pydantic's as `key: what is wrong and what is allowed`."""
    at: Any = data
    key: list[str] = []
    for step in detail["loc"]:  # among which are the names of types, where there is a choice of them
        if isinstance(at, dict | list) and (step in at if isinstance(at, dict) else isinstance(step, int)):
            at = at[step]
            key.append(str(step))
    last = str(detail["loc"][-1]) if detail["loc"] else ""
    path = ".".join(key)
    if detail["type"] == "missing":
        return f"{'.'.join([*key, last])}: missing"
    if detail["type"] == "extra_forbidden":
        allowed = f"; allowed: {', '.join(field.alias or name for name, field in kind.model_fields.items())}"
        return f"{path}: unknown key{allowed if len(key) == 1 else ''}"
    return f"{path + ': ' if path else ''}{plain(detail)}{f', not {show(at)}' if path else ''}"


def _base(asked: Question, path: Path, source: str, kind: str) -> Config:
    """The network, of which every factor is a key."""
    beside = path.parent / asked.base
    base = networks.read(beside if beside.is_file() else asked.base)
    networks.check(base, asked.base)
    try:
        config = revise(base, asked.set)
        for name, factor in asked.factors.items():
            values = [factor.low, factor.high] if isinstance(factor, Range) else factor
            for value in values:
                revise(config, {name: round(value) if isinstance(factor, Range) and factor.whole else value})
    except ConfigError as error:
        lines = (line.removeprefix("--set").lstrip(": ") for line in str(error).splitlines())
        raise ConfigError("\n".join(f"{source}: {kind}: {line}" for line in lines)) from error
    return config


def _check_metrics(study: Study) -> None:
    """Raises ConfigError for a metric that no run has."""
    from lattice_sim.study.task import metric_names  # pandas takes half a second

    asked, where = study.asked, f"{study.source}: {study.kind}"
    known = metric_names(study.base)
    for metric in asked.metrics:
        if metric not in known:
            near = difflib.get_close_matches(metric, known, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"{where}.metrics: {metric} is not recorded; {meant}allowed: {', '.join(known)}")
    if isinstance(asked.replications, Until) and asked.replications.until.metric not in asked.metrics:
        allowed = ", ".join(asked.metrics)
        raise ConfigError(
            f"{where}.replications.until.metric: must be one of metrics, {allowed}, not {asked.replications.until.metric}"
        )
