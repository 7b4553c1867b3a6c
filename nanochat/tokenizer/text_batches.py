"""Texts as people have them (str, bytes, Arrow in all its forms), made ready for the compiled tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from nanochat.errors import BadSource

BATCH_CHARACTERS = 1 << 23
"""Single texts cross into the compiled tokenizer together, in batches of at least so many characters."""

PORTION_BYTES = 1 << 27
"""Arrow's texts are learnt from in portions of about so many bytes."""


class ArrowArray(Protocol):
    """What can be read as one Arrow array or record batch; PyArrow's, and other libraries'."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...


class ArrowStream(Protocol):
    """What can be read as Arrow arrays or record batches, one after the other: a column or table of any library."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


NARROW = (pa.string(), pa.binary())
"""Arrow's types of texts with offsets of 32 bits."""
WIDE = (pa.large_string(), pa.large_binary())
STRINGS = (pa.string(), pa.large_string())
BYTES = (pa.binary(), pa.large_binary())

Texts = Iterable[str | bytes] | ArrowArray | ArrowStream
Chunks = list[tuple[np.ndarray, np.ndarray]]
"""UTF-8 bytes (uint8) of many texts, and offsets (texts + 1,) int32 or int64 into them; a pair per Arrow chunk."""


def is_arrow(texts: object) -> bool:
    return hasattr(texts, "__arrow_c_stream__") or hasattr(texts, "__arrow_c_array__")


def arrow_chunks(texts: Any) -> Chunks:
    """The buffers of an Arrow column of strings, or of bytes that are UTF-8, not copied; nulls are empty texts.

    Of tables, record batches and their like, the column `text` is taken, or the only one. Copied are only arrays with
    nulls, string views and dictionaries. Raises `BadSource` when the column is of something else.
    """
    column = pa.chunked_array(texts) if hasattr(texts, "__arrow_c_stream__") else pa.chunked_array([pa.array(texts)])
    return [_buffers(chunk) for chunk in column.chunks]


def _buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    if pa.types.is_struct(array.type):
        array = _text_field(array)
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if kind in (pa.string_view(), pa.binary_view()) or (kind is not array.type and kind in NARROW + WIDE):
        array = array.cast(pa.large_string() if kind in (pa.string_view(), *STRINGS) else pa.large_binary())
    if array.type not in NARROW + WIDE:
        raise BadSource(f"This Arrow column is of {array.type}, not of strings.", hint="Cast it to `string`.")
    width = np.int32 if array.type in NARROW else np.int64
    if array.null_count:
        array = array.fill_null(b"" if array.type in BYTES else "")
    _, offsets, data = array.buffers()
    if not len(array) or offsets is None:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    bounds = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1]
    return (np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)), bounds


def _text_field(rows: pa.StructArray) -> pa.Array:
    names = [field.name for field in rows.type]
    if names.count("text") > 1:
        raise BadSource(f"{names.count('text')} of these columns are called `text`.", hint="Give one of them.")
    if "text" not in names and len(names) != 1:
        raise BadSource(
            f"None of these columns is called `text`: {', '.join(names) or 'there are none'}.",
            hint="Give the column of the texts.",
        )
    return rows.flatten()[names.index("text") if "text" in names else 0]


def as_strings(texts: Any) -> list[str]:
    """An iterable of str and bytes as a list of str; bytes that are not UTF-8 become U+FFFD.

    Raises `TypeError` for anything else, and for a single text.
    """
    _refuse_what_is_not_many(texts)
    return [text if type(text) is str else _as_string(text) for text in texts]


def _refuse_what_is_not_many(texts: object) -> None:
    if isinstance(texts, (str, bytes, bytearray, memoryview)):
        raise TypeError("This is one text; many are wanted, in a list or another iterable.")
    if isinstance(texts, Mapping):  # its names would be taken for texts
        raise TypeError(f"A text is str or bytes, not {type(texts).__name__}; give the values that are texts.")


def _as_string(text: object) -> str:
    if isinstance(text, str):
        return str(text)
    if isinstance(text, bytes):
        return text.decode("utf-8", errors="replace")
    raise TypeError(f"A text is str or bytes, not {type(text).__name__}.")


def feed(texts: Any, strings: Callable[[list[str]], None], buffers: Callable[[Chunks], None]) -> None:
    """Gives all texts of a source to `strings` and `buffers`, holding no more in memory at once than a batch.

    The source is Arrow, or an iterable whose items are single texts, lists of texts, or Arrow, as they come.
    """
    _refuse_what_is_not_many(texts)
    if is_arrow(texts) and not isinstance(texts, pa.RecordBatchReader):  # a reader is better read batch by batch
        _feed_arrow(texts, buffers)
        return
    waiting: list[str] = []
    characters = 0
    for item in texts:
        if is_arrow(item):
            _feed_arrow(item, buffers)
            continue
        some = as_strings([item] if isinstance(item, (str, bytes)) else item)
        waiting += some
        characters += sum(map(len, some))
        if characters >= BATCH_CHARACTERS:
            strings(waiting)
            waiting, characters = [], 0
    if waiting:
        strings(waiting)


def _feed_arrow(texts: Any, buffers: Callable[[Chunks], None]) -> None:
    """In portions, so that Ctrl-C is heard between them."""
    portion: Chunks = []
    portion_bytes = 0
    for data, bounds in arrow_chunks(texts):
        while len(bounds) > 1:
            end = int(np.searchsorted(bounds, int(bounds[0]) + PORTION_BYTES - portion_bytes))
            end = max(1, min(end, len(bounds) - 1))
            portion.append((data, bounds[: end + 1]))
            portion_bytes += int(bounds[end]) - int(bounds[0])
            bounds = bounds[end:]
            if portion_bytes >= PORTION_BYTES:
                buffers(portion)
                portion, portion_bytes = [], 0
    if portion:
        buffers(portion)
