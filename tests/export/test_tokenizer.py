"""The exported tokenizer gives our ids, and its template renders conversations as ours, with the same loss mask."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path
from typing import Any

import jinja2
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.errors import BadSource
from nanochat.export.tokenizer_files import write_tokenizer
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer
from nanochat.tokenizer.chat import render, render_prompt
from tests.export.models import tokenizer
from tests.parity.texts import ANY_TEXT, TEXTS

CHARACTERS = st.characters(exclude_categories=("Cs", "Cn"))
PLAIN = st.text(CHARACTERS, max_size=30) | st.sampled_from(["", " ", "\n", " a\n\n b ", "ď", "👩‍👩‍👧", "don't stop"])
HOSTILE = st.lists(st.sampled_from(SPECIALS) | PLAIN, max_size=4).map("".join)
"""Text that may contain the names of special tokens."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tokenizer(), tmp_path_factory.mktemp("tokenizer"))


def load(ours: Tokenizer, folder: Path, **arguments: Any) -> Any:
    write_tokenizer(ours, folder, context_tokens=256)
    return transformers.AutoTokenizer.from_pretrained(folder, **arguments)


def known(text: str) -> str:
    """Without code points that Unicode tables of different years disagree on."""
    return "".join(character for character in text if unicodedata.category(character) != "Cn")


def conversations(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Conversations of all forms that `render` accepts; adjacent text parts are one text in a template."""
    question = text | st.lists(st.builds(lambda t: {"type": "text", "text": t}, text), max_size=3)
    part = st.builds(
        lambda kind, t: {"type": kind, "text": t}, st.sampled_from(["text", "python", "python_output"]), text
    )
    answer = text | st.lists(part, max_size=4).filter(no_adjacent_texts)
    turn = st.tuples(question, answer, st.sampled_from([None, True, False]))
    return st.builds(conversation, st.none() | text, st.lists(turn, min_size=1, max_size=3))


def no_adjacent_texts(parts: list[dict[str, str]]) -> bool:
    kinds = [part["type"] for part in parts]
    return ("text", "text") not in itertools.pairwise(kinds)


def conversation(system: str | None, turns: list[tuple[Any, Any, bool | None]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    for question, answer, learn in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer} | ({} if learn is None else {"learn": learn}))
    return {"messages": messages}


def rendered_by_template(theirs: Any, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return found["input_ids"], found["assistant_masks"]


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT | HOSTILE)
def test_ids_of_text_are_ours_behind_one_bos(text: str) -> None:
    """With `split_special_tokens`, the names of special tokens are text, as they are here."""
    text = known(text)
    found = SPLIT(text).input_ids
    assert found == [tokenizer().bos, *tokenizer().encode(text)]
    assert SPLIT.decode(found[1:]) == text


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    global SPLIT, PLAINLY
    SPLIT = load(tokenizer(), tmp_path_factory.mktemp("split"), split_special_tokens=True)
    PLAINLY = load(tokenizer(), tmp_path_factory.mktemp("plain"))


SPLIT: Any = None
PLAINLY: Any = None


def test_a_corpus_gives_our_ids(theirs: Any) -> None:
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False).input_ids == tokenizer().encode(text)


def test_by_default_the_names_of_special_tokens_in_text_are_special(theirs: Any) -> None:
    """What the model card warns of; `split_special_tokens` of a call or of the loaded tokenizer prevents it."""
    text = "a<|user_end|>"
    assert theirs(text).input_ids[-1] == tokenizer().special("<|user_end|>")
    assert theirs(text, split_special_tokens=True).input_ids[1:] == tokenizer().encode(text)


def test_special_tokens_have_their_roles(theirs: Any) -> None:
    special = tokenizer().special
    roles = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert roles == (special("<|bos|>"), special("<|assistant_end|>"), special("<|bos|>"))
    assert len(theirs) == tokenizer().vocab_size
    assert set(theirs.all_special_tokens) == set(SPECIALS)
    assert theirs.model_max_length == 256
    assert theirs.padding_side == "left"
    assert isinstance(theirs, transformers.PreTrainedTokenizerFast)
    assert theirs("a", "b").input_ids == [theirs.bos_token_id, *tokenizer().encode("a"), *tokenizer().encode("b")]


@settings(max_examples=300, deadline=None)
@given(conversation=conversations(PLAIN))
def test_a_conversation_has_our_ids_and_our_loss_mask(conversation: dict[str, Any]) -> None:
    assert rendered_by_template(PLAINLY, conversation["messages"]) == render(tokenizer(), conversation, 1 << 30)


@settings(max_examples=200, deadline=None)
@given(conversation=conversations(HOSTILE))
def test_the_names_of_special_tokens_in_messages_stay_text_on_request(conversation: dict[str, Any]) -> None:
    """`sanitize_control_tokens` of transformers 5.24 encodes them as our own rendering does."""
    found = PLAINLY.apply_chat_template(conversation["messages"], sanitize_control_tokens=True)["input_ids"]
    assert found == render(tokenizer(), conversation, 1 << 30)[0]


def test_a_prompt_ends_where_the_answer_begins(theirs: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    found = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert found == render_prompt(tokenizer(), messages)


def test_an_unfinished_answer_is_continued(theirs: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good"}]
    found = theirs.apply_chat_template(messages, continue_final_message=True)["input_ids"]
    assert found == [*render_prompt(tokenizer(), messages[:1]), *tokenizer().encode("Good")]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_go_into_the_first_question(role: str, theirs: Any) -> None:
    messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert theirs.apply_chat_template(messages, tokenize=False) == "<|bos|><|user_start|>Be brief.\n\nHi<|user_end|>"


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([{"role": "assistant", "content": "Hi"}], "take turns"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "take turns"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "type `image`"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "video"}]}], "type `video`"),
    ],
)
def test_what_cannot_be_rendered_is_named(messages: list[dict[str, Any]], named: str, theirs: Any) -> None:
    with pytest.raises(jinja2.TemplateError, match=named):
        theirs.apply_chat_template(messages)
    with pytest.raises(BadSource):
        render(tokenizer(), {"messages": messages}, 1 << 30)


def test_the_template_is_a_file_and_in_the_config(tmp_path: Path, theirs: Any) -> None:
    write_tokenizer(tokenizer(), tmp_path)
    written = (tmp_path / "chat_template.jinja").read_text()
    assert theirs.chat_template == written
    (tmp_path / "chat_template.jinja").unlink()
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == written


def test_it_is_saved_and_loaded_again(tmp_path: Path, theirs: Any) -> None:
    theirs.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = conversation("Be brief.", [("Hi", [{"type": "python", "text": "1+1"}], None)])["messages"]
    assert rendered_by_template(again, messages) == rendered_by_template(theirs, messages)
    assert again("a b").input_ids == theirs("a b").input_ids


def test_a_vocabulary_without_our_special_tokens_has_no_template(tmp_path: Path) -> None:
    plain = Tokenizer.train_from_iterator(TEXTS, 300, special_tokens=["<|end|>"])
    theirs = load(plain, tmp_path)
    assert theirs.chat_template is None
    assert theirs("hello").input_ids == plain.encode("hello")
