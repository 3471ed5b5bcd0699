"""A stream says what a whole decode says: no half characters, no beginnings of stop strings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from edge_runtime.bundle.manifest import ChatTemplate
from edge_runtime.engine.text import Codec, TextStream
from edge_runtime.errors import BundleError, UsageError
from export_tools.synth import _byte_alphabet, write_tokenizer
from tests.support.engine import load_codec

VOCAB = 600


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """Byte-level BPE: 256 bytes, merges, and three special tokens at the end."""
    directory = tmp_path_factory.mktemp("bytes")
    write_tokenizer(directory, VOCAB)
    return load_codec(Tokenizer.from_file(str(directory / "tokenizer.json")), directory)


def bytes_of(codec: Codec, data: bytes) -> list[int]:
    """One token a byte: every character of several bytes is split over tokens."""
    return [codec.tokenizer.token_to_id(_byte_alphabet()[byte]) for byte in data]


def stream(codec: Codec, tokens: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    """The pieces of a whole answer, and whether a stop string ended it."""
    made = TextStream(codec, stop)
    pieces = []
    for token in tokens:
        pieces.append(made.push(token))
        if made.stopped:
            break
    pieces.append(made.finish())
    return pieces, made.stopped


TEXTS = [
    "plain words",
    "emoji 🙂👩‍👩‍👧‍👦🏳️‍🌈 end",
    "漢字かな交じり文",
    "e\u0301a\u0308 combining",
    "\u0000\t\n control",
    "a literal \ufffd inside",
    "ends in \ufffd",
    "مرحبا שלום",
]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_arrive_whole(codec: Codec, text: str) -> None:
    pieces, _ = stream(codec, bytes_of(codec, text.encode()))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)
        for piece, data in zip(pieces, [bytes([b]) for b in text.encode()], strict=False):
            assert piece == "" or len(piece) == 1, data


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_its_own_tokens(codec: Codec, text: str) -> None:
    tokens = codec.encode(text, add_special_tokens=False)
    assert "".join(stream(codec, tokens)[0]) == codec.decode(tokens) == text


@given(st.lists(st.integers(0, VOCAB + 20), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_tokens_give_the_text_of_a_whole_decode(codec: Codec, tokens: list[int]) -> None:
    """Special tokens, ids past the vocabulary and bytes that never make a character included."""
    assert "".join(stream(codec, tokens)[0]) == codec.decode(tokens)


def test_an_invalid_byte_shows_as_soon_as_it_is_certain(codec: Codec) -> None:
    pieces, _ = stream(codec, bytes_of(codec, b"a\xe2b\xff"))
    assert pieces == ["a", "", "\ufffdb", "", "\ufffd"]


def test_a_character_cut_off_by_the_end_shows_once(codec: Codec) -> None:
    assert "".join(stream(codec, bytes_of(codec, "ab🙂".encode()[:-1]))[0]) == "ab\ufffd"


def test_endless_invalid_bytes_are_not_held_for_ever(codec: Codec) -> None:
    (token,) = bytes_of(codec, b"\x80")
    made = TextStream(codec)
    shown = [made.push(token) for _ in range(1000)]
    assert sum(map(len, shown)) >= 900
    assert len(made._window) < 100


def test_special_tokens_and_unknown_ids_are_silent(codec: Codec) -> None:
    made = TextStream(codec)
    assert [made.push(token) for token in (VOCAB - 1, VOCAB - 2, VOCAB, 10**6)] == [""] * 4
    assert made.finish() == ""
    assert codec.decode([VOCAB - 1], skip_special_tokens=False) == "<|im_end|>"


# --- stop strings ----------------------------------------------------------------------------


def splits(text: str) -> list[list[str]]:
    """Every way to cut a short text into pieces."""
    return [
        [text[a:b] for a, b in itertools.pairwise((0, *cuts, len(text)))]
        for size in range(len(text))
        for cuts in itertools.combinations(range(1, len(text)), size)
    ]


def released(pieces: Sequence[str], stop: Sequence[str]) -> tuple[str, bool]:
    made = TextStream(object(), stop)  # type: ignore[arg-type] - no token is decoded here
    out = ""
    for piece in pieces:
        out += made._release(piece)
        cut = _cut("".join(pieces), stop)
        assert cut.startswith(out), "something went out that had to be held back"
    if not made.stopped:
        out += made._held
    return out, made.stopped


def _cut(text: str, stop: Sequence[str]) -> str:
    """The answer by definition: up to the stop string that is complete first."""
    ends = [(text.index(one) + len(one), text.index(one)) for one in stop if one in text]
    return text[: min(ends)[1]] if ends else text


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("xxabcyy", ["abc"]),
        ("xababcz", ["abc"]),
        ("aabaabac", ["aabac"]),
        ("abcdefg", ["bcd", "c"]),
        ("abcdefg", ["abcdx", "def"]),
        ("abcabd", ["abd", "nothing"]),
        ("xyzabc", ["abcd"]),
        ("\n\nUser", ["\n\nUser:", "\n\nU"]),
        ("aaaa", ["aa"]),
    ],
)
def test_stop_strings_are_found_however_the_text_is_cut(text: str, stop: list[str]) -> None:
    expected = (_cut(text, stop), any(one in text for one in stop))
    for pieces in splits(text):
        assert released(pieces, stop) == expected, pieces


@given(
    st.text("ab", max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 12), max_size=5),
)
def test_stop_strings_by_definition(text: str, stop: list[str], cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(places) if b > a]
    assert released(pieces, stop)[0] == _cut("".join(pieces), stop)


def test_a_stop_string_inside_one_character_of_many_bytes(codec: Codec) -> None:
    pieces, stopped = stream(codec, bytes_of(codec, "go🙂on".encode()), ["🙂"])
    assert ("".join(pieces), stopped) == ("go", True)
    assert pieces[-1] == ""


def test_a_beginning_that_never_completes_is_given_back(codec: Codec) -> None:
    tokens = bytes_of(codec, b"one <en")
    pieces, stopped = stream(codec, tokens, ["<end>"])
    assert pieces[-4:] == ["", "", "", "<en"]
    assert ("".join(pieces), stopped) == ("one <en", False)


def test_the_cut_off_end_can_complete_a_stop_string(codec: Codec) -> None:
    pieces, stopped = stream(codec, bytes_of(codec, b"ab\xe2"), ["\ufffd"])
    assert ("".join(pieces), stopped) == ("ab", True)


# --- other families of tokenizers ------------------------------------------------------------


def metaspace() -> Tokenizer:
    """Llama 2's family: spaces as ▁, the first one dropped, unknown characters as bytes."""
    words = ["<unk>", "▁", "▁hello", "▁world", "hello", ",", "▁▁", "ing"]
    words += [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE({w: at for at, w in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


def wordpiece() -> Tokenizer:
    words = ["[UNK]", "un", "##able", "##s", "the", ".", "!", "'", "do", "n't"]
    tokenizer = Tokenizer(models.WordPiece({w: at for at, w in enumerate(words)}))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken("[SEP]", special=True)])
    return tokenizer


@given(data=st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("family", [metaspace, wordpiece], ids=lambda f: f.__name__)
def test_leading_spaces_are_those_of_a_whole_decode(
    family: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = _cached(family, tmp_path_factory)
    size = 8 if family is metaspace else 10
    # The special token lies behind the words (and the bytes).
    ids = st.one_of(st.integers(0, size - 1), st.just(made.vocab_size - 1))
    tokens = data.draw(st.lists(ids, max_size=15))
    assert "".join(stream(made, tokens)[0]) == made.decode(tokens)


_CODECS: dict[Any, Codec] = {}


def _cached(family: Any, factory: pytest.TempPathFactory) -> Codec:
    if family not in _CODECS:
        _CODECS[family] = load_codec(family(), factory.mktemp(family.__name__))
    return _CODECS[family]


@pytest.mark.parametrize("text", ["🙂", "漢字", "hello, 🙂 world"])
def test_byte_fallback_characters_arrive_whole(tmp_path: Path, text: str) -> None:
    made = load_codec(metaspace(), tmp_path)
    tokens = []
    for word in text.split(" "):
        known = made.tokenizer.token_to_id("▁" + word.rstrip(","))
        if known is not None:
            tokens.append(known)
        else:
            tokens += [
                made.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in b" " + word.encode()
            ]
    pieces, _ = stream(made, tokens)
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == made.decode(tokens)


# --- the codec -------------------------------------------------------------------------------


def _with_template(codec: Codec, directory: Path, source: str) -> Codec:
    codec.tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat.jinja").write_text(source)
    manifest: Any = SimpleNamespace(
        tokenizer=SimpleNamespace(file="tokenizer.json"),
        chat_template=ChatTemplate(file="chat.jinja", bos_token="<s>", eos_token="</s>"),
    )
    return Codec(directory, manifest)


MESSAGES = [{"role": "user", "content": "hi"}]


def test_a_chat_becomes_tokens_with_the_turn_opened(codec: Codec, tmp_path: Path) -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}"
    made = _with_template(codec, tmp_path, source + "{% if add_generation_prompt %}>{% endif %}")
    assert made.has_chat_template
    assert made.decode(made.apply_chat_template(MESSAGES)) == "<s>user:hi>"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages[0].missing.deeper }}", "missing"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages"),
        ("{% for m in range(90000) %}{{ 'x' * 1000 }}{% endfor %}", "too long"),
        ("{% for m in range(999999) %}{% endfor %}", "Range too big"),
        ("{{ 1 / 0 }}", "refuses these messages"),
        ("{{ messages[0].content + 1 }}", "refuses these messages"),
    ],
)
def test_what_a_template_does_wrong_is_the_callers_400(
    codec: Codec, tmp_path: Path, source: str, reason: str
) -> None:
    made = _with_template(codec, tmp_path, source)
    with pytest.raises(UsageError, match=reason):
        made.apply_chat_template(MESSAGES)


def test_without_a_template_there_is_no_chat(codec: Codec) -> None:
    assert not codec.has_chat_template
    with pytest.raises(UsageError, match="use /v1/completions"):
        codec.apply_chat_template(MESSAGES)


def test_files_that_cannot_be_read_are_named(codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"chat\.jinja"):
        _with_template(codec, tmp_path, "{% for %}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        load_broken(tmp_path)


def load_broken(directory: Path) -> Codec:
    manifest: Any = SimpleNamespace(
        tokenizer=SimpleNamespace(file="tokenizer.json"), chat_template=None
    )
    return Codec(directory, manifest)
