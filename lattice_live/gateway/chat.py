"""An answer's tokens as text, and both in OpenAI's shapes: whole, or as server-sent events."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import orjson

from lattice_live.models.text import StopStrings, Text
from lattice_live.node.sampling import Drawn

DONE = b"data: [DONE]\n\n"


class Reader:
    """Makes text of an answer's tokens. What was sent of a stream is let go of, unless it is to be kept."""

    def __init__(self, text: Text, stops: Sequence[str], top: int | None, keep: bool) -> None:
        """`top` is how many rivals of each token are asked for, None if not even its own probability."""
        self.texts: list[str] = []
        """What each token adds to the text, often nothing or several tokens' worth; at last perhaps what was held back."""
        self.drawn: list[Drawn] = []
        """The tokens of these texts, if their probabilities are asked for."""
        self.offset = 0
        """Where the first of the texts begins in the answer."""
        self._top = top
        self._kept: list[str] | None = [] if keep else None
        self._end = text.end
        self._words = text.detokeniser()
        self._stop = StopStrings(stops) if stops else None
        self._stopped = False
        self._ended = False

    @property
    def finish(self) -> str:
        """Why it ended, in OpenAI's words."""
        return "stop" if self._stopped or self._ended else "length"

    @property
    def enough(self) -> Callable[[Drawn], bool] | None:
        """Reads a token as it comes, and says whether a stop string ends the answer with it; None without stop strings."""
        return None if self._stop is None else self._read

    def take(self, drawn: Drawn) -> None:
        """The next token; it is read here unless it was read as it came."""
        if self._stop is None:
            self._read(drawn)
        if self._top is not None:
            self.drawn.append(drawn)
        self._ended = drawn.token in self._end

    def sent(self) -> None:
        """The texts have gone out."""
        self.offset += sum(map(len, self.texts))
        if self._kept is not None:
            self._kept += self.texts
        self.texts.clear()
        self.drawn.clear()

    def close(self) -> None:
        """Add what was held back, now that no more will come."""
        text = "" if self._stopped else self._words.finish()
        if self._stop is not None and not self._stopped:
            text, self._stopped = self._stop.feed(text)
            text = text if self._stopped else text + self._stop.finish()
        if text:
            self.texts.append(text)

    @property
    def text(self) -> str:
        """All of it, if nothing was let go of."""
        return "".join([*(self._kept or ()), *self.texts])

    def _read(self, drawn: Drawn) -> bool:
        text = self._words.feed(drawn.token)
        if self._stop is not None:
            text, self._stopped = self._stop.feed(text)
        self.texts.append(text)
        return self._stopped


class Form:
    """How one answer is written. `report` is what is said of it at its end: its usage and who served it."""

    object: str
    chunk: str

    def __init__(self, text: Text, id: str, model: str, created_s: int, top: int | None) -> None:
        self._text = text
        self._top = top
        self._head = f'"id":"{id}","created":{created_s},"model":{quoted(model)}'

    def opening(self) -> bytes:
        """What a stream begins with."""
        return b""

    def events(self, reader: Reader) -> bytes:
        """An event for each of the reader's texts; none for one that is empty, unless its probability is asked for."""
        if self._top is None:
            return "".join([self._event(self._delta(text), "null", "null") for text in reader.texts if text]).encode()
        events = [
            self._event(self._delta(text), self._logprobs(reader, slice(i, i + 1)), "null")
            for i, text in enumerate(reader.texts)
        ]
        return "".join(events).encode()

    def closing(self, finish: str, usage: dict[str, int], lattice: dict[str, Any], with_usage: bool) -> bytes:
        """What a stream ends with."""
        last = self._event(self._delta(None), "null", f'"{finish}"')
        if with_usage:
            said = f',"choices":[],"usage":{_json(usage)},"lattice":{_json(lattice)}}}\n\n'
            last += f'data: {{"object":"{self.chunk}",{self._head}{said}'
        else:
            last = f'{last.removesuffix("}\n\n")},"lattice":{_json(lattice)}}}\n\n'
        return last.encode() + DONE

    def whole(self, reader: Reader, usage: dict[str, int], lattice: dict[str, Any]) -> bytes:
        """The answer as one object."""
        logprobs = self._logprobs(reader, slice(None))
        choice = f'{{"index":0,{self._content(reader.text)},"logprobs":{logprobs},"finish_reason":"{reader.finish}"}}'
        said = f'"choices":[{choice}],"usage":{_json(usage)},"lattice":{_json(lattice)}'
        return f'{{"object":"{self.object}",{self._head},{said}}}'.encode()

    def _event(self, delta: str, logprobs: str, finish: str) -> str:
        choice = f'{{"index":0,{delta},"logprobs":{logprobs},"finish_reason":{finish}}}'
        return f'data: {{"object":"{self.chunk}",{self._head},"choices":[{choice}]}}\n\n'

    def _delta(self, text: str | None) -> str:
        raise NotImplementedError

    def _content(self, text: str) -> str:
        raise NotImplementedError

    def _logprobs(self, reader: Reader, part: slice) -> str:
        """Of some of the reader's tokens."""
        drawn = reader.drawn[part]
        return _json(self._table(reader, drawn, part.start or 0)) if drawn else "null"

    def _table(self, reader: Reader, drawn: Sequence[Drawn], first: int) -> dict[str, Any]:
        raise NotImplementedError

    def _word(self, token: int) -> str:
        return self._text.word(token).decode("utf-8", "replace")


class ChatForm(Form):
    """Of a chat."""

    object = "chat.completion"
    chunk = "chat.completion.chunk"

    def opening(self) -> bytes:
        return self._event('"delta":{"role":"assistant","content":""}', "null", "null").encode()

    def _delta(self, text: str | None) -> str:
        return '"delta":{}' if text is None else f'"delta":{{"content":{quoted(text)}}}'

    def _content(self, text: str) -> str:
        return f'"message":{{"role":"assistant","content":{quoted(text)},"refusal":null}}'

    def _table(self, reader: Reader, drawn: Sequence[Drawn], first: int) -> dict[str, Any]:
        def entry(token: int, logprob: float | None) -> dict[str, Any]:
            return {"token": self._word(token), "logprob": logprob, "bytes": list(self._text.word(token))}

        content = [{**entry(one.token, one.logprob), "top_logprobs": [entry(*rival) for rival in one.top]} for one in drawn]
        return {"content": content, "refusal": None}


class TextForm(Form):
    """Of a text that is continued."""

    object = "text_completion"
    chunk = "text_completion"

    def _delta(self, text: str | None) -> str:
        return self._content(text or "")

    def _content(self, text: str) -> str:
        return f'"text":{quoted(text)}'

    def _table(self, reader: Reader, drawn: Sequence[Drawn], first: int) -> dict[str, Any]:
        before = reader.offset + sum(map(len, reader.texts[:first]))
        return {
            "tokens": [self._word(one.token) for one in drawn],
            "token_logprobs": [one.logprob for one in drawn],
            "top_logprobs": [{self._word(token): logprob for token, logprob in one.top} for one in drawn],
            "text_offset": list(accumulate(map(len, reader.texts[first : first + len(drawn) - 1]), initial=before)),
        }


def event(content: dict[str, Any]) -> bytes:
    """An event of its own kind."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _json(content: Any) -> str:
    return orjson.dumps(content).decode()
