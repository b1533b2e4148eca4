"""From text to `Config`: the YAML, `--set` overrides on it, and errors of one line each."""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lattice_core.config.consistency import conflicts
from lattice_core.config.network import Config
from lattice_core.config.quantities import WrittenDefaults
from lattice_core.config.text import ConfigError, load

MAX_LINES = 5
"""Errors shown at once."""

_FIGURES = ("a", "b", "prefill_tok_s")
_MORE_FIGURES = ("prefill_beside_tok_s", "chunk_tok")

type Path = tuple[str | int, ...]


def parse(
    text: str, source: str, overrides: Sequence[str] = (), base: str = "", files: Callable[[str], str] | None = None
) -> Config:
    """Read a network from YAML `text`, then apply `overrides`, each `a.b.0.c=VALUE` with VALUE in YAML.

    `source` names the text in errors. A relative path in the text is relative to the folder `base`; one in an override is left
    as it is, relative to the current folder. `files` gives the text of a hardware profile's file. Raises ConfigError.
    """
    data = load(text, source)
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: must be a mapping with the keys {', '.join(schema()['properties'])}, not {show(data)}")
    anchor_paths(data, base)
    changes = []
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: must be PATH=VALUE, such as sim.epochs=3")
        changes.append((path, load(value, f"--set {path}")))
    return _build(data, changes, source, files)


def revise(config: Config, changes: Mapping[str, object]) -> Config:
    """`config` with other values, by dotted path as in `--set`. Raises ConfigError."""
    return _build(config.document(), list(changes.items()), config.name)


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of the YAML, defaults and descriptions included; to be read, not written to."""
    return Config.model_json_schema(schema_generator=WrittenDefaults)


def _build(
    data: dict[str, Any], changes: Sequence[tuple[str, object]], source: str, files: Callable[[str], str] | None = None
) -> Config:
    changed = [assign(data, path, deepcopy(value)) for path, value in changes]
    if files is not None:
        _take_profiles(data, files)
    version = data.get("version")
    if type(version) is not int or version != 1:
        lines = [f"version: must be 1, not {show(version)}"]
    else:
        try:
            config = Config.model_validate(data)
            lines = conflicts(config)
            if not lines:
                return config
        except ValidationError as error:
            lines = [_line(detail, data) for detail in error.errors(include_url=False)]
    overridden = tuple(_dotted(path, data) for path in changed)
    shown = [f"{'--set' if _within(line, overridden) else source}: {line}" for line in lines[:MAX_LINES]]
    if len(lines) > MAX_LINES:
        shown.append(f"{source}: and {len(lines) - MAX_LINES} more")
    raise ConfigError("\n".join(shown))


# Dotted paths


def assign(data: dict[str, Any], path: str, value: object) -> Path:
    """Set the value at a dotted path, making mappings on the way; returns the path's steps. Raises ConfigError."""
    at: Any = data
    done: list[str | int] = []
    steps = path.split(".")
    while steps:
        if isinstance(at, dict):
            # A model's name may itself have dots.
            width = next((n for n in range(len(steps), 0, -1) if ".".join(steps[:n]) in at), 1)
            step: str | int = ".".join(steps[:width])
        elif isinstance(at, list):
            width, step = 1, _position(at, steps[0], f"--set {path}: {_dotted(done, data)}")
        else:
            raise ConfigError(f"--set {path}: {_dotted(done, data)} is {show(at)} and has no keys; set it whole")
        steps = steps[width:]
        done.append(step)
        if not steps:
            at[step] = value
        elif isinstance(at, dict) and at.get(step) is None:
            at[step] = {}
        at = at[step]
    return tuple(done)


def _position(items: list[Any], step: str, at: str) -> int:
    """Index of the item that a step names by its number or its `name`."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if names.count(step) == 1:
        return names.index(step)
    if re.fullmatch("[0-9]{1,9}", step) and int(step) < len(items):
        return int(step)
    allowed = [name for name in names if isinstance(name, str)]
    raise ConfigError(f"{at}: must go on with {', '.join([*allowed, f'or a number below {len(items)}'])}, not {step}")


def _dotted(path: Sequence[str | int], data: Any) -> str:
    """A path as `--set` takes it, items of a list by name where they have one of their own."""
    words = []
    at = data
    for step in path:
        word = str(step)
        if isinstance(at, list) and isinstance(step, int) and step < len(at):
            names = [item.get("name") for item in at if isinstance(item, dict)]
            at = at[step]
            name = at.get("name") if isinstance(at, dict) else None
            if isinstance(name, str) and names.count(name) == 1:
                word = name
        else:
            at = at.get(step) if isinstance(at, dict) else None
        words.append(word)
    return ".".join(words)


def _within(line: str, paths: Sequence[str]) -> bool:
    """Whether an error's line speaks of one of these paths or of what lies under it."""
    key = line.partition(": ")[0]
    return any(key == path or key.startswith(f"{path}.") for path in paths)


def anchor_paths(data: dict[str, Any], base: str) -> None:
    """Make the files that the text names relative to the current folder instead of `base`."""
    users, models = data.get("users"), data.get("models")
    for population in users if isinstance(users, list) else []:
        _anchor(population, "workload", ("trace",), base)
    nodes = data.get("nodes")
    for population in nodes if isinstance(nodes, list) else []:
        _anchor(population, "hardware", ("profile",), base)
    for model in models.values() if isinstance(models, dict) else []:
        _anchor(model, "weights", ("gguf", "folder"), base)


def _take_profiles(data: dict[str, Any], files: Callable[[str], str]) -> None:
    """Put the figures of each hardware profile in the place of its file's name."""
    nodes = data.get("nodes")
    for population in nodes if isinstance(nodes, list) else []:
        hardware = population.get("hardware") if isinstance(population, dict) else None
        if isinstance(hardware, dict) and isinstance(hardware.get("profile"), str) and hardware["profile"]:
            file = hardware.pop("profile")
            hardware["models"] = profile_figures(files(file), file)


def profile_figures(text: str, source: str) -> dict[str, dict[str, Any]]:
    """The figures {a, b, prefill_tok_s, …} of each model in the text of a hardware profile. Raises ConfigError."""
    profile = load(text, source)
    measured = profile.get("models") if isinstance(profile, dict) else None
    if not isinstance(measured, dict) or (profile.get("format"), profile.get("version")) != ("lattice-hardware", 1):
        raise ConfigError(f"{source}: must be what `lattice node profile` writes: format: lattice-hardware, version: 1, models")
    figures = {}
    for model, held in measured.items():
        missing = [key for key in _FIGURES if not isinstance(held, dict) or key not in held]
        if missing:
            raise ConfigError(f"{source}: models.{model}: must have {', '.join(_FIGURES)}; missing: {', '.join(missing)}")
        figures[model] = {key: held[key] for key in (*_FIGURES, *_MORE_FIGURES) if key in held}
    return figures


def _anchor(item: Any, section: str, keys: Sequence[str], base: str) -> None:
    named = item.get(section) if isinstance(item, dict) else None
    if isinstance(named, dict):
        for key in keys:
            if isinstance(named.get(key), str) and named[key]:
                named[key] = str(PurePath(base) / named[key])


# Errors


def _line(detail: ErrorDetails, data: dict[str, Any]) -> str:
    """One error of pydantic's as `key: what is wrong and what is allowed`."""
    path = tuple(step for step in detail["loc"] if step != "[key]")
    key = _dotted(path, data)
    if detail["type"] == "extra_forbidden":
        allowed = _section(path[:-1])["properties"]
        near = difflib.get_close_matches(str(path[-1]), allowed, 1)
        return f"{key}: unknown key; {f'did you mean {near[0]}? ' if near else ''}allowed: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"{key}: missing; must be {_wanted(path)}"
    if detail["type"] in ("model_type", "dict_type", "list_type"):
        return f"{key}: must be {_wanted(path)}, not {show(detail['input'])}"
    return f"{key}: {plain(detail)}, not {show(detail['input'])}"


def _wanted(path: Path) -> str:
    """What the schema wants at a path: the shape of the value, and what it says."""
    name = path[-1]
    described = _section(path[:-1]).get("properties", {}).get(name, {}).get("description", "")
    section = _section(path)
    shape = {"object": "a mapping", "array": "a list"}.get(section.get("type", ""), "a value")
    keys = f" of {', '.join(section['properties'])}" if "properties" in section else ""
    return f"{shape}{keys}{f' ({described.rstrip(".")})' if described else ''}"


def plain(detail: ErrorDetails) -> str:
    """A pydantic message in the words of the others."""
    if detail["type"] == "too_short":
        return f"must have at least {detail['ctx']['min_length']} item(s)"
    if detail["type"] == "too_long":
        return f"must have at most {detail['ctx']['max_length']} item(s)"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message.replace("a valid ", "a ").replace("a integer", "an integer")


def _section(path: Path) -> dict[str, Any]:
    """The part of the JSON schema that describes the value at a path."""
    whole = schema()

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        options = part.get("anyOf", [part])
        chosen = next((option for option in options if "$ref" in option), options[0])
        return whole["$defs"][chosen["$ref"].rpartition("/")[2]] if "$ref" in chosen else chosen

    at = whole
    for step in path:
        if isinstance(step, int):
            part = at["items"]
        elif "properties" in at:
            part = at["properties"][step]
        else:
            part = next(iter(at["patternProperties"].values()))
        at = resolved(part)
    return at


def show(value: object) -> str:
    """A value as YAML would write it, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
