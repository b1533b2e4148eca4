"""tokenizer.json, read by the `tokenizers` library: the byte tokeniser of random models, and the vocabulary of a GGUF."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

if TYPE_CHECKING:
    from lattice_live.models.gguf import Gguf

BEGIN = 256
END = 257
BYTE_VOCABULARY = 258
BEGIN_TEXT = "<|begin|>"
END_TEXT = "<|end|>"

_PLAIN_CHAT = """\
{% for message in messages %}{{ message.role }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""

_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens in GGUF that are found in a text before it is split: marks, and words that the authors added."""

_END_MARKS = {
    "<|endoftext|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<｜end▁of▁sentence｜>",
}
"""Control tokens that end an answer in whatever model has them."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How the llama 3 and qwen 2 models split text into words; they differ in how many digits make a number."""


class Vocabulary(NamedTuple):
    """How a model's text becomes ids, and what else its manifest says of text."""

    tokeniser: Tokenizer
    end: list[int]
    """Tokens that end an answer, the main one first."""
    begin: int | None
    add_begin: bool
    chat_template: str | None
    bos_token: str
    eos_token: str


def bytewise() -> Vocabulary:
    """Ids 0 to 255 are the bytes of UTF-8, then come the marks of beginning and end."""
    tokenizer = Tokenizer(models.BPE({letter: byte for byte, letter in enumerate(byte_letters())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (BEGIN_TEXT, END_TEXT)])
    return Vocabulary(tokenizer, [END], BEGIN, True, _PLAIN_CHAT, BEGIN_TEXT, END_TEXT)


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself if it can be seen, else one from U+0100 on."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(unseen)) for byte in range(0x100)]


def stored(gguf: "Gguf") -> Vocabulary:
    """The vocabulary of a GGUF file. Raises ModelError for what is missing, damaged or of a kind not known here."""
    if (model := gguf.string("tokenizer.ggml.model")) != "gpt2":
        raise gguf.fail(f"tokenizer.ggml.model: must be gpt2, byte pairs, not {model!r}")
    splits = _splits()
    if (split := gguf.string("tokenizer.ggml.pre")) not in splits:
        raise gguf.fail(f"tokenizer.ggml.pre: must be {', '.join(sorted(splits))}, not {split!r}")
    tokens = gguf.strings("tokenizer.ggml.tokens")
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) != len(tokens) or "" in ids:
        raise gguf.fail("tokenizer.ggml.tokens: must be tokens of one letter or more, each given once")
    llama_3 = split == "llama-bpe"
    tokeniser = Tokenizer(models.BPE(ids, _merges(gguf, ids), fuse_unk=False, ignore_merges=llama_3))
    if split == "qwen2":
        tokeniser.normalizer = normalizers.NFC()
    tokeniser.pre_tokenizer = splits[split]
    tokeniser.decoder = decoders.ByteLevel()
    types = gguf.array("tokenizer.ggml.token_type")
    if len(types) != len(tokens):
        raise gguf.fail(f"tokenizer.ggml.token_type: must have {len(tokens)} elements, one a token, not {len(types)}")
    control = [tokens[id] for id in np.flatnonzero(types == _CONTROL)]
    tokeniser.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    added = [tokens[id] for id in np.flatnonzero(types == _USER_DEFINED)]
    tokeniser.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])

    begin, end = _mark(gguf, "bos", tokens), _mark(gguf, "eos", tokens)
    if end is None:
        raise gguf.fail(f"tokenizer.ggml.eos_token_id: is missing; must be from 0 to {len(tokens) - 1}")
    others = {_mark(gguf, "eot", tokens), _mark(gguf, "eom", tokens), *(ids[t] for t in control if t in _END_MARKS)}
    return Vocabulary(
        tokeniser,
        end=[end, *sorted(other for other in others if other not in (end, None))],
        begin=begin,
        add_begin=begin is not None and gguf.boolean("tokenizer.ggml.add_bos_token", llama_3),
        chat_template=gguf.string("tokenizer.chat_template", "") or None,
        bos_token="" if begin is None else tokens[begin],
        eos_token=tokens[end],
    )


def _splits() -> dict[str, pre_tokenizers.PreTokenizer]:
    """How a text is split before bytes are paired, by its name in GGUF."""

    def words(digits: str) -> pre_tokenizers.PreTokenizer:
        split = pre_tokenizers.Split(Regex(_WORDS % digits), "isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    gpt_2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return {
        "gpt-2": gpt_2,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt_2]),
        "llama-bpe": words("{1,3}"),
        "qwen2": words(""),
        "deepseek-r1-qwen": words(""),
    }


def _merges(gguf: "Gguf", ids: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of tokens that make another token, first those that are joined first."""
    merges = []
    for merge in gguf.strings("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if not (left in ids and right in ids and left + right in ids):
            raise gguf.fail(f"tokenizer.ggml.merges: must be pairs of tokens that make a token, not {merge[:60]!r}")
        merges.append((left, right))
    return merges


def _mark(gguf: "Gguf", name: str, tokens: list[str]) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in gguf.keys:
        return None
    if not 0 <= (id := gguf.integer(key)) < len(tokens):
        raise gguf.fail(f"{key}: must be from 0 to {len(tokens) - 1}, not {id}")
    return id
