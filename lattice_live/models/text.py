"""What turns chats and texts into token ids, and ids as they come into text."""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from tokenizers import Tokenizer

from lattice_live.models.tokeniser import byte_letters

MAX_WORK = 1 << 24
"""What rendering a chat may cost: characters made and numbers counted, and STEP_WORK for each statement of a loop or macro."""

STEP_WORK = 64

_BYTES = {letter: byte for byte, letter in enumerate(byte_letters())}

_FILTERS = frozenset(
    """
    abs capitalize count d default dictsort e escape first float groupby int items last length list lower map max min reject
    rejectattr reverse round safe select selectattr sort string sum title trim unique upper
    """.split()  # noqa: SIM905
)
"""Jinja's filters whose result is not much longer than what they are given."""

_TEXT_METHODS = frozenset(
    """
    capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle
    isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines
    startswith strip swapcase title upper
    """.split()  # noqa: SIM905
)


class TextError(ValueError):
    """A chat that cannot be rendered: what the template says, or why it was stopped; one line."""


class Text:
    """The tokeniser and the chat template of a model, as its manifest describes them.

    What users write never becomes a control token: a control token is one that the template writes, or `begin`. `end` are the
    tokens that end an answer. Raises TextError if the template is no Jinja.
    """

    def __init__(
        self,
        tokeniser: Path,
        *,
        chat_template: str | None,
        begin: int | None,
        add_begin: bool,
        end: Sequence[int],
        bos_token: str,
        eos_token: str,
    ) -> None:
        self._tokeniser = Tokenizer.from_file(str(tokeniser))
        self._tokeniser.encode_special_tokens = True  # control tokens in a text are text
        self._prefix = [begin] if add_begin and begin is not None else []
        self.end = frozenset(end)
        added = self._tokeniser.get_added_tokens_decoder()
        self._control = {token.content: id for id, token in added.items() if token.special}
        self._words = {id: b"" if token.special else token.content.encode() for id, token in added.items()}
        longest_first = sorted(self._control, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._template = None if chat_template is None else _Template(chat_template, bos_token, eos_token)

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Ids of a chat, up to where the assistant's answer begins. Raises TextError.

        A control token's text in a message gets a character between its letters that stands nowhere else, and so is none when
        the template has put it in its place. That character goes before the text around the control tokens is encoded, which
        is whole: what the template writes and what the user wrote are split into words as if it were one text.
        """
        if self._template is None:
            raise TextError("this model has no chat template")
        valid = _mapped(messages, _valid)
        apart = self._apart(valid)
        if apart:
            valid = _mapped(valid, lambda text: self._marks.sub(lambda mark: apart.join(mark[0]) + apart, text))
        rendered = self._template.render(valid)
        ids, at = [], 0
        for mark in self._marks.finditer(rendered):
            if apart and rendered[mark.end() : mark.end() + 1] == apart:  # a control token of one letter, in a message
                continue
            ids += self._plain(rendered[at : mark.start()].replace(apart, ""))
            ids.append(self._control[mark[0]])
            at = mark.end()
        ids += self._plain(rendered[at:].replace(apart, ""))
        return ids if ids[:1] == self._prefix else self._prefix + ids

    def _apart(self, messages: Sequence[dict[str, Any]]) -> str:
        """A character that stands nowhere; "" if no message has a control token's text. Raises TextError."""
        assert self._template is not None
        if not any(map(self._marks.search, _strings(messages))):
            return ""
        whole = json.dumps(messages, ensure_ascii=False) + self._template.source
        for code in range(0xFDD0, 0xFDF0):
            if chr(code) not in whole:
                return chr(code)
        raise TextError("must leave one of the noncharacters U+FDD0 to U+FDEF unused")

    def encode(self, text: str) -> list[int]:
        """Ids of a text, `begin` before them if the model wants it; what UTF-8 cannot hold (a lone surrogate) becomes `?`."""
        return self._prefix + self._plain(_valid(text))

    def detokeniser(self) -> "Detokeniser":
        """For the ids of one answer."""
        return Detokeniser(self.word)

    def word(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for, perhaps a part of a character; none for a control token."""
        if token not in self._words:
            letters = self._tokeniser.id_to_token(token) or ""
            self._words[token] = b"".join(
                bytes([_BYTES[letter]]) if letter in _BYTES else letter.encode("utf-8", "replace") for letter in letters
            )
        return self._words[token]

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokeniser.encode(text, add_special_tokens=False).ids
        return ids


class Detokeniser:
    """Text from token ids as they come: a character that spans several tokens appears with its last byte."""

    def __init__(self, word: Callable[[int], bytes]) -> None:
        self._word = word
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes: often a word, empty for a control token or within a character."""
        return self._utf8.decode(self._word(token))

    def finish(self) -> str:
        """What is left when the answer ends: U+FFFD if it ends within a character, else nothing."""
        return self._utf8.decode(b"", final=True)


class StopStrings:
    """Finds the first of some strings in a text that comes in pieces, and holds back what may be the beginning of one.

    First is the one that ends first, and of those that end at one place the longest. An empty string is never found.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings = sorted(filter(None, strings), key=len, reverse=True)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that may go out now, and whether a stop string was found; it and all behind it never go out."""
        text = self._held + text
        found = [(at + len(string), at) for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            _, at = min(found)
            self._held = ""
            return text[:at], True
        longest = min(len(text), max(map(len, self._strings), default=1) - 1)
        held = next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self._strings)), 0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def finish(self) -> str:
        """What was held back and was the beginning of nothing."""
        held, self._held = self._held, ""
        return held


class _Template:
    """A chat template, which is a program of strangers: it can reach nothing, change nothing, and do only so much."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        self.source = source
        self._marks = {"bos_token": bos_token, "eos_token": eos_token}
        self._sandbox = _Sandbox()
        try:
            tree = _Bounded().visit(self._sandbox.parse(source))
            self._template = self._sandbox.from_string(tree)
        except (TemplateError, RecursionError, SyntaxError, ValueError) as error:
            raise TextError(f"chat template: {_line(error)}") from None

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The chat as text."""
        self._sandbox.left = MAX_WORK
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._marks)
        except (TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError) as error:
            raise TextError(f"chat template: {_line(error)}") from None
        except (TypeError, ValueError) as error:
            raise TextError(f"chat template: {_line(error)}") from None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it, with what makes long things from short ones bounded or left out."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.left = 0
        self.filters = {name: self.filters[name] for name in _FILTERS if name in self.filters}
        self.filters |= {"tojson": self._json, "join": self._joined, "replace": self._replaced}
        self.globals = {
            "namespace": self.globals["namespace"],
            "dict": dict,
            "range": self._range,
            "raise_exception": _refuse,
        }
        self.concat = self._concat  # type: ignore[method-assign]  # what macros and blocks return

    def spend(self, work: int) -> bool:
        self.left -= work
        if self.left < 0:
            raise TemplateError(f"takes more work than a chat may, {MAX_WORK}")
        return True

    def weighed(self, value: Any) -> Any:
        """Spends as much as `value` is large."""
        self.spend(_size(value) if hasattr(value, "__len__") else 0)
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or (operator == "%" and not numbers):
            raise TemplateError(f"operator {operator}: must be applied to numbers, and ** to nothing")
        if operator == "*" and not numbers:
            self.spend(max(_size(left), 1) * max(_size(right), 1))
        elif operator == "*":
            self.spend(int(left).bit_length() + int(right).bit_length())
        elif not numbers:
            self.spend(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr not in _TEXT_METHODS)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is an attribute like any other, and not a safe one."""

    def call(self, context: Context, obj: Any, *arguments: Any, **named: Any) -> Any:
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str | list | dict):
            self.weighed(owner)
        if isinstance(owner, str) and name == "join":
            return self._joined(arguments[0], owner)
        if isinstance(owner, str) and name == "replace":
            return self._replaced(owner, *arguments)
        return super().call(context, obj, *arguments, **named)

    def _range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        self.spend(len(numbers) * STEP_WORK)
        return numbers

    def _joined(self, values: Iterable[Any], between: str = "") -> str:
        parts = []
        for value in values:
            parts.append(str(value))
            self.spend(len(parts[-1]) + len(between) + 1)
        return between.join(parts)

    def _replaced(self, text: str, old: str, new: str, count: int = -1) -> str:
        text, old, new = str(text), str(old), str(new)
        self.spend(len(text) + text.count(old) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def _concat(self, parts: Iterable[str]) -> str:
        parts = list(parts)
        self.spend(sum(map(len, parts)) + len(parts))
        return "".join(parts)

    def _json(self, value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=None if indent is None else min(indent, 8))
        self.spend(len(text))
        return text


class _Bounded(NodeTransformer):
    """Makes whatever a template may do again and again spend: turns of loops, what they pass over, calls of macros, what a
    filter, a slice or a search goes through.

    Writes `a ~ b` as `[a, b] | join`, which is bounded.
    """

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _like(node, nodes.Filter(nodes.List(node.nodes), "join", [], [], None, None))

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.node = node.node and _weighed(node.node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _weighed(node.node)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        for operand in node.ops:
            if not isinstance(operand.expr, nodes.Const):
                operand.expr = _weighed(operand.expr)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        if node.test is not None:
            node.test = _like(node, nodes.And(_spent(node, 1), node.test))
        return self._metered(node)

    def _metered(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        steps = 1 + sum(1 for inner in node.body for _ in inner.find_all(nodes.Stmt))
        node.body.insert(0, _like(node, nodes.ExprStmt(_spent(node, steps))))
        self.generic_visit(node)
        return node

    visit_Macro = visit_CallBlock = _metered  # noqa: N815


def _spent(at: nodes.Node, steps: int) -> nodes.Expr:
    return _told("spend", _like(at, nodes.Const(steps * STEP_WORK)))


def _weighed(value: nodes.Expr) -> nodes.Expr:
    return _told("weighed", value)


def _told(what: str, value: nodes.Expr) -> nodes.Expr:
    """A call of the sandbox's own."""
    return _like(value, nodes.Call(_like(value, nodes.EnvironmentAttribute(what)), [value], [], None, None))


def _like[N: nodes.Node](old: nodes.Node, new: N) -> N:
    """A node in the old one's place."""
    new.lineno, new.environment = old.lineno, old.environment
    return new


def _refuse(message: str) -> None:
    raise TemplateError(str(message)[:300])


def _size(value: Any) -> int:
    """How much of it there is: characters or elements; of a number, what it multiplies a text by."""
    if isinstance(value, int | float):
        return abs(int(value))
    return len(value) if hasattr(value, "__len__") else 0


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of lists and dicts with every string in them changed, but for keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(held, change) for key, held in value.items()}
    return [_mapped(held, change) for held in value] if isinstance(value, list | tuple) else value


def _strings(value: Any) -> Iterator[str]:
    """The strings in lists and dicts, but for keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):
        for held in value.values() if isinstance(value, dict) else value:
            yield from _strings(held)


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
