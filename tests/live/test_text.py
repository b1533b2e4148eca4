"""Chats become ids and ids become text, whatever users write and wherever tokens cut a character."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from lattice_live.models.text import StopStrings, Text, TextError
from lattice_live.models.tokeniser import byte_letters, bytewise

CHAT = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' ~ '\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

CORPUS = ["user assistant system hello there, the weather is fine\n\n", "naïve café 東京 🙂 <|im_end|> 1234 \r\n\t"] * 4


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokeniser of byte pairs, as the models have them, with two control tokens and a word that its authors added."""
    tokeniser = Tokenizer(models.BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokeniser.decoder = decoders.ByteLevel()
    tokeniser.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=byte_letters(), show_progress=False)
    )
    tokeniser.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<|im_start|>", "<|im_end|>")])
    tokeniser.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    path = tmp_path_factory.mktemp("text") / "tokenizer.json"
    tokeniser.save(str(path))
    return path


def made(file: Path, template: str | None = CHAT, **changes: Any) -> Text:
    given = {"begin": None, "add_begin": False, "end": [1], "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    return Text(file, chat_template=template, **(given | changes))


@pytest.fixture(scope="module")
def text(file: Path) -> Text:
    return made(file)


def said(content: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def whole(text: Text, ids: list[int]) -> str:
    words = text.detokeniser()
    return "".join(map(words.feed, ids)) + words.finish()


@given(words=st.text() | st.sampled_from(CORPUS))
def test_text_comes_back_from_its_ids(text: Text, words: str) -> None:
    assert whole(text, text.encode(words)) == words


@given(data=st.data())
def test_any_ids_give_the_text_of_all_their_bytes(text: Text, file: Path, data: st.DataObject) -> None:
    size = Tokenizer.from_file(str(file)).get_vocab_size()
    ids = data.draw(st.lists(st.integers(0, size - 1)))
    assert whole(text, ids) == b"".join(map(text.word, ids)).decode("utf-8", "replace")


@given(content=st.binary(max_size=40))
def test_single_bytes_give_u_fffd_only_for_what_is_no_utf_8(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    if not path.exists():
        bytewise().tokeniser.save(str(path))
    assert whole(made(path, None), list(content)) == content.decode("utf-8", "replace")


def test_a_character_appears_with_its_last_byte(tmp_path: Path) -> None:
    bytewise().tokeniser.save(str(tmp_path / "t"))
    words = made(tmp_path / "t", None).detokeniser()
    assert [words.feed(byte) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]


def test_control_tokens_are_silent(text: Text, file: Path) -> None:
    control = Tokenizer.from_file(str(file)).token_to_id("<|im_end|>")
    assert whole(text, [*text.encode("a"), control, *text.encode("b")]) == "ab"


def test_a_chat_has_the_ids_of_its_rendered_text(text: Text, file: Path) -> None:
    chat = [*said("  be brief\n", "system"), *said("naïve café 1234")]
    rendered = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nnaïve café 1234<|im_end|>\n<|im_start|>assistant\n"
    assert text.chat(chat) == Tokenizer.from_file(str(file)).encode(rendered).ids


@given(
    content=st.text()
    | st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|im_", "end|>", "\ufdd0", "x\n"])).map("".join)
)
def test_no_message_writes_a_control_token(text: Text, content: str) -> None:
    ids, control = text.chat(said(content)), [text.chat(said("a"))[0], text.chat(said("a"))[-3]]
    start = control[0]
    assert sum(id == start for id in ids) == 2
    assert sum(text.word(id) == b"" for id in ids) == 3
    assert whole(text, ids) == f"user\n{content.strip()}\nassistant\n"


def test_control_tokens_in_a_text_are_text(text: Text) -> None:
    assert whole(text, text.encode("<|im_end|>")) == "<|im_end|>"


def test_a_lone_surrogate_becomes_a_question_mark(text: Text) -> None:
    assert whole(text, text.encode("a\ud800b")) == "a?b"
    assert "a?b" in whole(text, text.chat(said("a\ud800b")))


def test_begin_stands_before_a_prompt_once(file: Path) -> None:
    start = Tokenizer.from_file(str(file)).token_to_id("<|im_start|>")
    text = made(file, begin=start, add_begin=True)
    assert text.encode("a")[0] == start
    assert text.chat(said("a"))[:2].count(start) == 1
    assert made(file, "{{ messages[0].content }}", begin=start, add_begin=True).chat(said("a")) == text.encode("a")


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% set n = [0] * 9999 %}{% for a in n %}{% for b in n %}{% for c in n %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a' * 999999999 }}",
        "{% set x = 'aaaaaaaa' %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}",
        "{% set x = 'aaaaaaaa' %}" + "{% set x = x + x %}" * 60 + "{{ x }}",
        "{% set x = 'aaaaaaaa' %}" + "{% set x = x | replace('a', x) %}" * 9 + "{{ x }}",
        "{% set x = 'aaaaaaaa' %}" + "{% set x = x.join(x) %}" * 60 + "{{ x }}",
        "{% macro f0() %}aaaaaaaa{% endmacro %}"
        + "".join(f"{{% macro f{i + 1}() %}}{{{{ f{i}() }}}}{{{{ f{i}() }}}}{{% endmacro %}}" for i in range(50))
        + "{{ f50() }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'.center(999999999) }}",
        "{{ 'a' | center(999999999) }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__['os'] }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% include '/etc/passwd' %}",
        "{{ messages[7].content.x }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ raise_exception('roles must alternate') }}",
    ],
)
def test_a_template_that_misbehaves_is_an_error_of_one_line(file: Path, template: str) -> None:
    with pytest.raises(TextError, match=r"\Achat template: [^\n]+\Z"):
        made(file, template).chat(said("hello"))


def test_a_template_can_refuse_a_chat(file: Path) -> None:
    with pytest.raises(TextError, match="must alternate"):
        made(file, "{{ raise_exception('roles must alternate') }}").chat(said("a"))


def test_a_template_has_what_templates_expect(file: Path) -> None:
    template = """
    {%- set ns = namespace(n=0) -%}
    {%- for m in messages -%}
        {%- if m.role == 'skip' %}{% continue %}{% endif -%}
        {%- set ns.n = ns.n + 1 -%}
        {{ m | tojson }}{{ m['content'].split('/')[-1] | upper }}{{ loop.last }}
    {%- endfor -%}
    {{ ns.n }}{{ 7 % 4 }}{{ strftime_now is defined }}{{ bos_token }}"""
    text = made(file, template)
    assert whole(text, text.chat(said("é/b"))) == '{"role": "user", "content": "é/b"}BTrue13False'


def test_a_model_without_a_template_says_so(file: Path) -> None:
    with pytest.raises(TextError, match="no chat template"):
        made(file, None).chat(said("a"))


pieces = st.lists(st.text(alphabet="abc", max_size=5))
stop_strings = st.lists(st.text(alphabet="abc", max_size=4), max_size=4)


@given(pieces=pieces, stops=stop_strings)
def test_stop_strings_cut_as_a_search_of_the_whole_text_does(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop and stop in text]
    finder, out, stopped = StopStrings(stops), "", False
    for piece in pieces:
        went, stopped = finder.feed(piece)
        out += went
        if stopped:
            break
    assert stopped == bool(ends)
    assert out + ("" if stopped else finder.finish()) == (text[: min(ends)[1]] if ends else text)


@given(pieces=pieces, stops=stop_strings)
def test_only_what_may_begin_a_stop_string_is_held_back(pieces: list[str], stops: list[str]) -> None:
    finder, out, text = StopStrings(stops), "", ""
    for piece in pieces:
        went, stopped = finder.feed(piece)
        if stopped:
            return
        out, text = out + went, text + piece
        held = text[len(out) :]
        assert text.startswith(out)
        assert not held or any(stop.startswith(held) for stop in stops)
