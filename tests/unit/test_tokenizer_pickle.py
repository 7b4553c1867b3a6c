"""Tokenizers travel to other processes, as `pickle` and `copy` take them there."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat import _rustbpe
from nanochat._rustbpe import PATTERN, derived_merges
from nanochat.errors import BadSource, DamagedArtifact, NoSuchToken
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.world.documents import documents

TEXTS = [*documents(5, 0, 60), "naïve 東京 🙂\n", "", "<|bos|>", "\ud800"]
OURS = Tokenizer.train_from_iterator(TEXTS[:-1], 500)
TOKENS = [None, *reversed(OURS.token_bytes()[:-9])]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SLOW = Tokenizer.from_merges([(97, 98), (256, 99)], ["<é>"], r"\w+|\W")
KINDS = {
    "trained": OURS,
    "bytes only": Tokenizer.from_merges([], []),
    "another pattern": SLOW,
    "ranks in any order": Tokenizer.from_tokens(TOKENS, {"<|bos|>": 0, "<|end|>": 5000}, PATTERN),
    "a list of merges": Tokenizer.from_tokens(TOKENS, {}, PATTERN, derived_merges(TOKENS)[::-1], whole=False),
}
WAYS: dict[str, Callable] = {
    **{
        f"pickle {p}": lambda made, p=p: pickle.loads(pickle.dumps(made, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "cloudpickle": lambda made: pickle.loads(cloudpickle.dumps(made)),  # Dask's and Ray's
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def ids_of(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text) for text in TEXTS]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_comes_back_with_the_same_ids(kind: str, way: str) -> None:
    made = KINDS[kind]
    again = WAYS[way](made)
    assert ids_of(again) == ids_of(made)
    assert again == made and hash(again) == hash(made) and again.digest == made.digest
    assert (again.special_tokens, again.vocab_size, again.pattern) == (
        made.special_tokens, made.vocab_size, made.pattern
    )  # fmt: skip
    with pytest.raises(TypeError):
        again.special_tokens["<|more|>"] = 7


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_comes_back_with_the_same_ids(kind: str, way: str) -> None:
    made = KINDS[kind].encoder
    again = WAYS[way](made)
    assert [again.encode(text) for text in TEXTS] == [made.encode(text) for text in TEXTS]
    assert again.token_bytes() == made.token_bytes()


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_of_every_start_method_encode(method: str, tmp_path: Path) -> None:
    """A fork has none of its parent's threads: nothing may wait for them."""
    OURS.encode_batch(TEXTS, threads=2)
    OURS.save(tmp_path / "vocabulary.json")
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as workers:
        assert list(workers.map(ids_of, KINDS.values(), timeout=60)) == [ids_of(made) for made in KINDS.values()]
        assert workers.submit(Tokenizer.load, tmp_path / "vocabulary.json").result(timeout=60) == OURS
        with pytest.raises(NoSuchToken, match="There is no token 9999") as caught:
            workers.submit(OURS.decode, [9999]).result(timeout=60)
        assert caught.value.message.startswith("There is no token 9999")


def test_a_stream_goes_on_where_it_was() -> None:
    stream = OURS.decode_stream()
    assert stream.step(*"é東".encode()[:3]) == "é"
    again = pickle.loads(pickle.dumps(stream))
    assert again.step(*"東".encode()[1:]) == stream.step(*"東".encode()[1:]) == "東"


def test_a_batch_of_a_file_comes_back_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS[:-1]}), tmp_path / "a.parquet")
    (batch,) = OURS.encode_parquet(tmp_path / "a.parquet")
    again = pickle.loads(pickle.dumps(batch))
    assert len(again) == len(batch)
    for of in ("hashes", "byte_lengths"):
        assert np.array_equal(getattr(again, of)(), getattr(batch, of)())
    assert np.array_equal(again.ids, batch.ids) and np.array_equal(again.offsets, batch.offsets)
    function, (ids, offsets, texts) = batch.__reduce__()
    for wrong in ((ids[1:], offsets, texts), (ids, offsets[1:], texts), (ids, offsets[::-1].copy(), texts)):
        with pytest.raises(ValueError, match="do not fit"):
            function(*wrong)


def test_a_forked_process_ends_though_its_parent_reads_a_file(tmp_path: Path) -> None:
    """The threads that read are the parent's: the child must neither wait for them nor take their batches."""
    pq.write_table(pa.table({"text": TEXTS[:-1] * 50}), tmp_path / "a.parquet", row_group_size=100)
    batches = OURS.encode_parquet(tmp_path / "a.parquet", threads=2)
    first = next(batches)
    child = os.fork()
    if child == 0:
        try:
            next(batches)
        except BadSource as error:
            batches.close()
            del batches
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert len(first) + sum(map(len, batches)) == 50 * (len(TEXTS) - 1)


@pytest.mark.parametrize("made", [_rustbpe.Trainer(), OURS.encoder.encode_parquet], ids=["trainer", "method"])
def test_what_cannot_be_exported_is_reported(made: object) -> None:
    if isinstance(made, _rustbpe.Trainer):
        with pytest.raises(TypeError, match="Trainer"):
            pickle.dumps(made)
    else:
        assert pickle.loads(pickle.dumps(made)).__name__ == "encode_parquet"


@pytest.mark.parametrize(
    ("change", "output"),
    [
        ({"format": 7}, "`format` is 7"),
        ({"merges": [[97, 98], [97]]}, r"`merges\[1\]`"),
        ({"merges": [[97, 1 << 40]]}, "not a vocabulary"),
        ({"merges": [[97, 400]]}, "not a vocabulary"),
        ({"pattern": "("}, "not a vocabulary"),
        ({"specials": "<|bos|>"}, "`specials` is not a list"),
        ({"specials": ["<x>", "<x>"]}, "listed twice"),
        ({"more": 1}, "`more` is an unknown field"),
    ],
)
def test_a_damaged_pickle_is_one_sentence(change: dict, output: str) -> None:
    function, (cls, content) = OURS.__reduce__()
    with pytest.raises(DamagedArtifact, match=output):
        function(cls, content | change)


def test_a_damaged_pickle_of_an_encoder_is_one_sentence() -> None:
    function, (tokens, merges, pattern, whole) = OURS.encoder.__reduce__()
    for wrong in (
        (tokens[1:], merges, pattern, whole), ([*tokens, b"a"], merges, pattern, whole),
        (tokens, [(1, 1 << 20)], pattern, whole), (tokens, merges, "(", whole),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            function(*wrong)
    with pytest.raises(TypeError):
        function("abc", merges, pattern, whole)


def test_equal_means_the_same_ids() -> None:
    assert Tokenizer.from_merges([(97, 98)]) == Tokenizer.from_merges([(97, 98)])
    assert Tokenizer.from_merges([(97, 98)]) != Tokenizer.from_merges([(97, 98)], ["<|bos|>"])
    assert Tokenizer.from_merges([(97, 98)]) != Tokenizer.from_merges([(98, 97)])
    assert Tokenizer.from_merges([]) != "a tokenizer"
    assert repr(OURS) == "<Tokenizer of 500 ids, 9 of special tokens>"
