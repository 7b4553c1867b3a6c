"""Whatever a caller gives by mistake is an ordinary exception with a sentence, and never a guess."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nanochat import _rustbpe
from nanochat.errors import BadSource, NanochatError, NoSuchToken
from nanochat.tokenizer.bpe import Tokenizer

OURS = Tokenizer.from_merges([(97, 98), (256, 99)])


@pytest.mark.parametrize("unknown", [OURS.vocab_size, -1, 1 << 40, 10**30, -(10**30)])
def test_an_unknown_id_is_named(unknown: int) -> None:
    for ids in ([97, unknown], [OURS.bos, unknown], iter([OURS.bos, unknown])):
        with pytest.raises(NoSuchToken, match=f"There is no token {unknown}: ids of this vocabulary are below 267"):
            OURS.decode(ids)  # pyright: ignore[reportArgumentType]
    for call in (OURS.id_to_bytes, OURS.decode_stream().step, lambda number: OURS.encode_batch(["a"], before=number)):
        with pytest.raises(NoSuchToken, match=str(unknown)):
            call(unknown)
    assert issubclass(NoSuchToken, KeyError) and issubclass(NoSuchToken, NanochatError)


def test_an_unknown_special_token_is_named() -> None:
    with pytest.raises(NoSuchToken, match=r"no special token `<\|eos\|>`"):
        OURS.special("<|eos|>")


def test_ids_of_an_iterator_are_all_decoded() -> None:
    assert OURS.decode(iter([OURS.bos, 257, OURS.bos])) == "<|bos|>abc<|bos|>"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "ids",
    [[97.5], ["97"], [None], [[97]], 97, None, "ab", np.array([97.5]), np.array([True]), np.array([[97, 98]]),
     np.array(97), np.array(["a"]), np.array([97], object)],
    ids=repr,
)  # fmt: skip
def test_what_is_no_id_is_not_rounded(ids: Any) -> None:
    with pytest.raises(TypeError, match=r"\w"):
        OURS.decode(ids)


def test_large_unsigned_ids_are_not_taken_for_negative_ones() -> None:
    with pytest.raises(NoSuchToken, match=str(2**64 - 1)):
        OURS.decode(np.array([2**64 - 1], np.uint64))
    assert OURS.decode(np.array([97, OURS.bos], np.uint64)) == "a<|bos|>"
    assert OURS.decode(np.array([97, 257], ">u4")) == OURS.decode(np.array([97, 0, 257])[::2]) == "aabc"


@pytest.mark.parametrize(
    "texts",
    [{"text": ["a"]}, [{"text": "a"}], "a", b"a", bytearray(b"a"), memoryview(b"a"), None, 5, [None], [5], [["a"], 5]],
    ids=lambda texts: type(texts).__name__,
)
def test_what_is_no_text_is_not_guessed_at(texts: Any) -> None:
    with pytest.raises(TypeError, match=r"\w"):
        Tokenizer.train_from_iterator(texts, 265)
    with pytest.raises(TypeError, match=r"\w"):
        OURS.encode_batch(texts)


@pytest.mark.parametrize(
    "column",
    [pa.array([1]), pa.array([["a"]]), pa.array([None]), pa.array([1]).dictionary_encode(),
     pa.array([b"ab"], pa.binary(2)), pa.array([{"a": "x", "b": "y"}]), pa.table({"a": ["x"], "b": ["y"]}),
     pa.table({"text": [1]})],
    ids=lambda column: str(getattr(column, "type", "table")),
)  # fmt: skip
def test_arrow_that_is_no_text_is_refused(column: Any) -> None:
    for call in (OURS.encode_batch, lambda texts: Tokenizer.train_from_iterator(texts, 265)):
        with pytest.raises(BadSource):
            call(column)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes_of_arrow_are_utf8_as_bytes_of_python_are(kind: pa.DataType) -> None:
    given = [b"abc", None, b"a\xffb", b"", "é".encode()]
    ids, offsets = OURS.encode_batch(pa.array(given, kind))
    plain, places = OURS.encode_batch([text or b"" for text in given])
    assert np.array_equal(ids, plain) and np.array_equal(offsets, places)
    encoded, _ = OURS.encode_batch(pa.array(["x", *given], kind)[1:].dictionary_encode() if kind == pa.binary() else [])
    assert np.array_equal(encoded, plain if kind == pa.binary() else [])


def test_an_error_of_the_texts_comes_through() -> None:
    def texts() -> Iterator[str]:
        yield "abc"
        raise RuntimeError("in the middle")

    for call in (OURS.encode_batch, lambda given: Tokenizer.train_from_iterator(given, 265)):
        with pytest.raises(RuntimeError, match="in the middle"):
            call(texts())


def test_half_characters_are_replaced() -> None:
    assert OURS.decode(OURS.encode("a\ud800b")) == OURS.decode(OURS.encode_batch(["a\ud800b"])[0]) == "a\ufffdb"


def read_only() -> np.ndarray:
    made = np.zeros(9, np.uint16)
    made.flags.writeable = False
    return made


@pytest.mark.parametrize(
    "out",
    [np.zeros(2, np.uint16), np.zeros(9, np.uint32), np.zeros(9), np.zeros(18, np.uint16)[::2], read_only(),
     np.zeros((3, 3), np.uint16), np.array(3, np.uint16), np.zeros(9, ">u2"), bytearray(18), [0] * 9],
    ids=["small", "wide", "float", "with gaps", "read-only", "two rows", "no row", "big-endian", "bytes", "list"],
)  # fmt: skip
def test_a_buffer_that_does_not_do_is_refused(out: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"buffer of 2|`out` must be|contiguous"):
        OURS.encode_batch(["xyz"], out=out)


@pytest.mark.parametrize("offsets", [[0, 9], [2, 1], [-1, 2], [0, 1 << 40], [0.0, 1.0]])
def test_offsets_that_do_not_fit_are_refused(offsets: list) -> None:
    data, places = np.frombuffer(b"abc", np.uint8), np.array(offsets)
    with pytest.raises((ValueError, TypeError), match="offsets"):
        OURS.encoder.encode_buffers([(data, places)], 1, False)
    with pytest.raises((ValueError, TypeError), match="offsets"):
        _rustbpe.Trainer().add_buffers([(data, places)])


@pytest.mark.parametrize(
    ("offsets", "row_tokens"), [([-5, 2], 4), ([0, 3], 4), ([2, 1, 2], 4), ([0, 2], 1), ([0, 2], 0), ([0, 2], 10**12)]
)
def test_a_packer_that_cannot_is_an_error(offsets: list[int], row_tokens: int) -> None:
    with pytest.raises(ValueError, match=r"do not fit|a row has"):
        _rustbpe.pack(np.zeros(2, np.uint16), np.array(offsets), row_tokens)
