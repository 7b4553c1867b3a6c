"""The tokenizer's face: texts in all their forms, ids in and out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat._rustbpe import PATTERN, derived_merges
from nanochat.errors import BadConfig, BadSource, DamagedArtifact
from nanochat.tokenizer import text_batches
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer
from nanochat.tokenizer.training import BYTES
from nanochat.world.documents import documents

TEXTS = [*documents(5, 0, 300), "", "naïve 東京 🙂\n" * 3, "\0a\0", " " * 200, ""]
VOCAB_SIZE = 700
OURS = Tokenizer.train_from_iterator(TEXTS, VOCAB_SIZE)
EXPECTED = [OURS.encode(text) for text in TEXTS]


def of_another_library(data: object, method: str) -> object:
    """Arrow that PyArrow did not make: only the protocol is there."""
    return type("Foreign", (), {method: lambda _, requested_schema=None: getattr(data, method)(requested_schema)})()


def with_null(kind: pa.DataType) -> pa.Array:
    """`TEXTS`, but the two empty ones are null."""
    return pa.array([text or None for text in TEXTS], kind)


COLUMN = pa.array(TEXTS)
ARROW = {
    "string": COLUMN,
    "large string": pa.array(TEXTS, pa.large_string()),
    "string view": pa.array(TEXTS, pa.string_view()),
    "sliced": pa.array(["x", *TEXTS, "y"])[1:-1],
    "sliced view": pa.array(["x", *TEXTS, "y"], pa.string_view())[1:-1],
    "null": with_null(pa.string()),
    "null in large": with_null(pa.large_string()),
    "null in view": with_null(pa.string_view()),
    "dictionary": COLUMN.dictionary_encode(),
    "chunked": pa.chunked_array([TEXTS[:7], [], TEXTS[7:8], TEXTS[8:]]),
    "table": pa.table({"id": range(len(TEXTS)), "text": TEXTS}),
    "one column": pa.table({"body": TEXTS}),
    "record batch": pa.record_batch({"text": TEXTS}),
    "reader": lambda: pa.table({"text": TEXTS}).to_reader(max_chunksize=50),
    "another's array": of_another_library(COLUMN, "__arrow_c_array__"),
    "another's stream": of_another_library(pa.chunked_array([TEXTS[:9], TEXTS[9:]]), "__arrow_c_stream__"),
    "another's table": of_another_library(pa.table({"text": TEXTS}), "__arrow_c_stream__"),
}
every_arrow = pytest.mark.parametrize("kind", ARROW)


def arrow(kind: str) -> object:
    made = ARROW[kind]
    return made() if callable(made) else made


def rows(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    assert offsets.dtype == np.int64
    return [ids[begin:end].tolist() for begin, end in itertools.pairwise(offsets)]


# --- learning ---------------------------------------------------------------------------------------------------------


@every_arrow
def test_training_accepts_arrow(kind: str) -> None:
    assert Tokenizer.train_from_iterator(arrow(kind), VOCAB_SIZE).merges == OURS.merges


@every_arrow
@pytest.mark.parametrize("portion_bytes", [1, 5000])
def test_training_reads_arrow_in_portions(kind: str, portion_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_batches, "PORTION_BYTES", portion_bytes)
    assert Tokenizer.train_from_iterator(arrow(kind), VOCAB_SIZE).merges == OURS.merges


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4, 5])
def test_any_number_of_threads_learns_the_same(threads: int) -> None:
    assert Tokenizer.train_from_iterator(TEXTS, VOCAB_SIZE, threads=threads).merges == OURS.merges


def test_training_accepts_any_iterable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_batches, "BATCH_CHARACTERS", 1000)

    def mixed() -> Iterator[object]:
        yield TEXTS[:50]
        yield from TEXTS[50:100]
        yield from (text.encode() for text in TEXTS[100:150])
        yield pa.array(TEXTS[150:200])
        yield pa.table({"text": TEXTS[200:]})

    assert Tokenizer.train_from_iterator(mixed(), VOCAB_SIZE).merges == OURS.merges
    assert Tokenizer.train_from_iterator(iter(TEXTS), VOCAB_SIZE).merges == OURS.merges
    assert Tokenizer.train_from_iterator((text.encode() for text in TEXTS), VOCAB_SIZE).merges == OURS.merges


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    ids, _ = OURS.encode_batch([b"a\xffb", "c"])
    assert ids.tolist() == [*OURS.encode("a\ufffdb"), *OURS.encode("c")]


def test_one_text_is_not_many() -> None:
    for wrong in ("text", b"text"):
        with pytest.raises(TypeError, match="This is a single text"):
            Tokenizer.train_from_iterator(wrong, 300)
        with pytest.raises(TypeError, match="This is a single text"):
            OURS.encode_batch(wrong)
    with pytest.raises(TypeError, match="not int"):
        OURS.encode_batch([1])  # pyright: ignore[reportArgumentType]


def test_columns_that_are_no_text() -> None:
    with pytest.raises(BadSource, match="the type int64, not strings"):
        OURS.encode_batch(pa.array([1]))
    with pytest.raises(BadSource, match="named `text`: a, b"):
        OURS.encode_batch(pa.table({"a": ["x"], "b": ["y"]}))


def test_a_vocabulary_of_the_wrong_size_is_one_sentence() -> None:
    with pytest.raises(BadConfig, match=r"`tokenizer\.vocab_size` = 264 is too small for the bytes.*Set at least 265"):
        Tokenizer.train_from_iterator(["abc"], 264)
    with pytest.raises(BadConfig, match=r"has only 2 merges. Set at most 267"):
        Tokenizer.train_from_iterator(["abc"], 5000)


def test_only_bytes() -> None:
    for texts in ([], ["abc"]):
        bare = Tokenizer.train_from_iterator(texts, BYTES + len(SPECIALS))
        assert (bare.merges, bare.vocab_size, bare.bos) == ([], 265, 256)
        assert bare.encode("aé") == list("aé".encode())
    assert Tokenizer.train_from_iterator([], 256, special_tokens=[]).vocab_size == 256


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(BadConfig, match="cannot split text"):
        Tokenizer.train_from_iterator(["abc"], 300, pattern="(")


@pytest.mark.parametrize("of", [list, pa.array])
def test_a_regex_engine_that_gives_up_is_one_sentence(of) -> None:
    with pytest.raises(BadConfig, match="cannot split text"):
        Tokenizer.train_from_iterator(of([" " * 10_000]), 266, pattern=r"(?:\s|\s\s)*x(?!y)|\s+(?!\S)y?")


def test_progress_is_reported_and_may_stop() -> None:
    reported: list[tuple[int, int]] = []
    Tokenizer.train_from_iterator(TEXTS, VOCAB_SIZE, progress=lambda done, wanted: reported.append((done, wanted)))
    assert reported[-1] == (VOCAB_SIZE - BYTES - len(SPECIALS),) * 2

    def stop(done: int, wanted: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Tokenizer.train_from_iterator(TEXTS, VOCAB_SIZE, progress=stop)


# --- encoding ---------------------------------------------------------------------------------------------------------


@every_arrow
def test_arrow_is_encoded(kind: str) -> None:
    assert rows(*OURS.encode_batch(arrow(kind))) == EXPECTED


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("of", [list, pa.array, lambda texts: pa.chunked_array([[text] for text in texts])])
def test_any_number_of_threads_gives_the_same(threads: int, of) -> None:
    ids, offsets = OURS.encode_batch(of(TEXTS), threads=threads, before=OURS.bos, after=3)
    assert ids.dtype == np.uint16
    assert rows(ids, offsets) == [[OURS.bos, *one, 3] for one in EXPECTED]


def test_nothing_is_encoded_to_nothing() -> None:
    assert OURS.encode("") == []
    for nothing in ([], pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.array(["x"])[:0]):
        ids, offsets = OURS.encode_batch(nothing)
        assert (len(ids), offsets.tolist()) == (0, [0])
    for empty in (["", ""], pa.array(["", ""]), pa.array([None, None], pa.string())):
        ids, offsets = OURS.encode_batch(empty)
        assert (len(ids), offsets.tolist()) == (0, [0, 0, 0])


def test_ids_are_written_to_the_given_buffer() -> None:
    out = np.full(1_000_000, 9, OURS.dtype)
    for texts in (TEXTS, COLUMN, TEXTS[:5]):
        ids, offsets = OURS.encode_batch(texts, threads=2, out=out)
        assert np.shares_memory(ids, out)
        assert ids.ctypes.data == out.ctypes.data
        assert rows(ids, offsets) == EXPECTED[: len(offsets) - 1]
    with pytest.raises(ValueError):
        OURS.encode_batch(TEXTS, out=np.empty(10, OURS.dtype))
    with pytest.raises((ValueError, TypeError)):
        OURS.encode_batch(TEXTS, out=np.empty(1_000_000, np.uint32))


@pytest.mark.parametrize("specials", [SPECIALS, [f"<{number}>" for number in range(1 << 16)]])
def test_memory_with_a_live_view_is_not_reused(specials: list[str]) -> None:
    tokenizer = Tokenizer.from_merges(OURS.merges, specials)
    ones, twos = pa.array([" one" * 100_000]), pa.array([" two" * 100_000])
    ids = tokenizer.encode_batch(ones)[0]
    place, expected = ids.ctypes.data, ids[1:].tolist()
    tail = ids[1:]
    del ids
    other = tokenizer.encode_batch(twos)[0]
    assert tail.tolist() == expected
    other[:] = 0  # it is the caller's
    assert tokenizer.encode_batch(ones)[0][1:].tolist() == expected
    del tail
    again = [tokenizer.encode_batch(ones)[0] for _ in range(2)]
    assert place in {array.ctypes.data for array in again}
    assert [array[1:].tolist() for array in again] == [expected, expected]


def test_a_large_vocabulary_is_wide() -> None:
    tokens: list[bytes | None] = [bytes([byte]) for byte in range(256)]
    wide = Tokenizer.from_tokens(tokens, {"<|end|>": 70_000}, PATTERN)
    assert (wide.dtype, wide.vocab_size) == (np.uint32, 70_001)
    ids, _ = wide.encode_batch(["ab"], after=70_000)
    assert ids.dtype == np.uint32
    assert ids.tolist() == [97, 98, 70_000]
    assert wide.decode(ids) == "ab<|end|>"


def test_threads_may_share_one() -> None:
    found: list[bool] = []

    def work() -> None:
        found.append(all(OURS.encode(text) == ids for text, ids in zip(TEXTS, EXPECTED, strict=True)))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [True] * 4


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_all_kinds_of_ids_are_decoded() -> None:
    text = "The island 東京 🙂"
    ids = OURS.encode(text)
    for kind in (np.uint16, np.uint32, np.int64, np.int32):
        assert OURS.decode(np.array(ids, kind)) == text
        assert OURS.decode(np.array([*ids, OURS.bos], kind)[::-1][::-1]) == text + "<|bos|>"
    assert OURS.decode(tuple(ids)) == text
    assert OURS.decode([]) == OURS.decode(np.zeros(0, np.uint16)) == ""
    assert OURS.decode_batch([ids, [], [OURS.bos]]) == [text, "", "<|bos|>"]
    assert OURS.decode([0xE6, *OURS.encode("x")]) == "\ufffdx"


@pytest.mark.parametrize("unknown", [VOCAB_SIZE, -1, 1 << 40])
def test_an_unknown_id_is_a_key_error(unknown: int) -> None:
    with pytest.raises(KeyError, match=str(unknown)):
        OURS.decode([97, unknown])
    with pytest.raises(KeyError):
        OURS.decode(np.array([97, unknown]))
    with pytest.raises(KeyError):
        OURS.id_to_bytes(unknown)
    assert OURS.id_to_token(unknown) is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_a_stream_gives_whole_characters(text: str) -> None:
    stream = OURS.decode_stream()
    parts = [stream.step(number) for number in text.encode()]
    assert "".join(parts) + stream.end() == text
    assert "\ufffd" not in parts or "\ufffd" in text


def test_a_stream_ends_in_the_middle_of_a_character() -> None:
    stream = OURS.decode_stream()
    assert stream.step(*"é東".encode()[:-1]) == "é"
    assert stream.end() == "\ufffd"
    assert OURS.decode_stream().step(OURS.bos, 97) == "<|bos|>a"


# --- what it is -------------------------------------------------------------------------------------------------------


def test_special_tokens_come_by_id_only() -> None:
    assert OURS.bos not in OURS.encode("<|bos|>")
    assert OURS.decode([OURS.bos]) == "<|bos|>"
    assert OURS.special("<|output_end|>") == VOCAB_SIZE - 1
    with pytest.raises(KeyError):
        OURS.special("<|eos|>")


def test_tokens_by_name_and_number() -> None:
    assert OURS.token_to_id("<|bos|>") == OURS.bos
    assert OURS.token_to_id(b"<|bos|>") is None
    assert OURS.token_to_id("a") == OURS.token_to_id(b"a") == 97
    assert OURS.token_to_id("no such token") is None
    for number, token in enumerate(OURS.token_bytes()):
        if token is not None:
            assert OURS.token_to_id(OURS.id_to_bytes(number)) == number
    assert OURS.id_to_token(OURS.bos) == "<|bos|>"
    assert OURS.id_to_token(0xE6) == "\ufffd"


def test_byte_lengths() -> None:
    lengths = OURS.token_byte_lengths()
    assert lengths.shape == (VOCAB_SIZE,)
    assert lengths[:BYTES].tolist() == [1] * BYTES
    assert lengths[-len(SPECIALS) :].tolist() == [0] * len(SPECIALS)
    assert len(OURS.token_bytes()) == VOCAB_SIZE


def test_merges_can_be_derived_from_tokens() -> None:
    assert derived_merges(OURS.token_bytes()) == OURS.merges


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path: Path) -> None:
    OURS.save(tmp_path / "vocabulary.json")
    again = Tokenizer.load(tmp_path / "vocabulary.json")
    assert (again.digest, again.vocab_size, again.merges) == (OURS.digest, VOCAB_SIZE, OURS.merges)


def test_the_digest_of_a_vocabulary_is_for_ever() -> None:
    """Token shards and models name their vocabulary by it."""
    made = Tokenizer.from_merges([(97, 98), (256, 99)])
    assert made.digest == "26f6a0c4c343dedb376e9b5359458fe231def1fa5a11cfa1f4f051e060f3c3ef"


def test_ids_in_another_order_are_saved_and_loaded(tmp_path: Path) -> None:
    tokens = [None, *reversed(OURS.token_bytes()[: -len(SPECIALS)])]
    for made in (
        Tokenizer.from_tokens(tokens, {"<|bos|>": 0, "<|end|>": 5000}, PATTERN),
        Tokenizer.from_tokens(tokens, {"<|bos|>": 0}, PATTERN, derived_merges(tokens)[::-1], whole=False),
    ):
        made.save(tmp_path / "vocabulary.json")
        again = Tokenizer.load(tmp_path / "vocabulary.json")
        assert (again.digest, again.special_tokens) == (made.digest, made.special_tokens)
        assert [again.encode(text) for text in TEXTS] == [made.encode(text) for text in TEXTS]


@pytest.mark.parametrize(
    "stored",
    [
        "", "[]", "{}", '{"format":3,"merges":[]}', '{"format":1,"merges":[[900,901]],"pattern":"a","specials":[]}',
        '{"format":1,"merges":[[97]],"pattern":"a","specials":[]}',
        '{"format":1,"merges":[],"pattern":"(","specials":[]}',
        '{"format":2,"merges":null,"pattern":"a","specials":{},"tokens":["YQ=="],"whole":true}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_vocabulary(stored: str, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(stored)
    with pytest.raises(DamagedArtifact):
        Tokenizer.load(tmp_path / "vocabulary.json")


@pytest.mark.parametrize("specials", [{"a": 97}, {"a": -1}, {"a": 300, "b": 300}])
def test_a_special_token_has_an_id_of_its_own(specials: dict[str, int]) -> None:
    with pytest.raises(DamagedArtifact, match="special token"):
        Tokenizer.from_tokens([bytes([byte]) for byte in range(256)], specials, PATTERN)
