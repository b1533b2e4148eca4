"""YAML, read strictly: version 1.2's core types (`on` is a key, `1e3` a number); no tags, aliases or duplicate keys."""

import re
from typing import Any, ClassVar

import yaml

MAX_DEPTH = 50
"""Lists and mappings inside each other; a config needs ten."""


class ConfigError(ValueError):
    """Bad input: a line for each error, with file, key, value and what is allowed."""


class _Loader(yaml.SafeLoader):
    """Text, numbers, true, false, null, lists, and mappings from text without duplicates."""

    depth = 0
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        "tag:yaml.org,2002:str": yaml.SafeLoader.construct_yaml_str,
        "tag:yaml.org,2002:seq": yaml.SafeLoader.construct_yaml_seq,
        "tag:yaml.org,2002:map": yaml.SafeLoader.construct_yaml_map,
        None: yaml.SafeLoader.construct_undefined,
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(problem="aliases are not allowed", problem_mark=mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                problem = f"the key {key.value if isinstance(key, yaml.ScalarNode) else ''} must be text"
            elif key.value in seen:
                problem = f"duplicate key {key.value}"
            else:
                seen.add(key.value)
                continue
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        return {key.value: self.construct_object(value, deep) for key, value in node.value}


_Loader.yaml_implicit_resolvers = {}


def _resolve(name: str, pattern: str, first: str, constructor: Any) -> None:
    tag = f"tag:yaml.org,2002:{name}"
    _Loader.add_implicit_resolver(tag, re.compile(f"^(?:{pattern})$"), list(first))
    _Loader.add_constructor(tag, constructor)


_resolve("null", "~|null|Null|NULL|", "~nN", lambda loader, node: None)
_Loader.yaml_implicit_resolvers[""] = [("tag:yaml.org,2002:null", re.compile(r"^$"))]
_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF", lambda loader, node: node.value.lower() == "true")
_resolve("int", "[-+]?[0-9]+", "-+0123456789", lambda loader, node: int(node.value))
_resolve(
    "float",
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "-+.0123456789",
    lambda loader, node: float(re.sub(r"\.(?=[iInN])", "", node.value)),
)


def load(text: str, source: str) -> Any:
    """The value of a YAML text. Raises ConfigError."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context
    except (yaml.YAMLError, ValueError) as error:
        where, problem = "", str(error).splitlines()[0]
    raise ConfigError(f"{source}: {where}must be YAML: {problem}")
