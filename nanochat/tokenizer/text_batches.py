"""Converts texts (str, bytes, any Arrow data) into what the compiled tokenizer takes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from nanochat.errors import BadSource

BATCH_CHARACTERS = 1 << 23
"""Single texts are passed to the compiled tokenizer in batches of at least this many characters."""

PORTION_BYTES = 1 << 27
"""Arrow data is passed to training in portions of about this size."""


class ArrowArray(Protocol):
    """An Arrow array or record batch of any library."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...


class ArrowStream(Protocol):
    """A stream of Arrow arrays or record batches: a column or table of any library."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


NARROW = (pa.string(), pa.binary())
"""Arrow types with 32-bit offsets."""
WIDE = (pa.large_string(), pa.large_binary())
STRINGS = (pa.string(), pa.large_string())
BYTES = (pa.binary(), pa.large_binary())

Texts = Iterable[str | bytes] | ArrowArray | ArrowStream
Chunks = list[tuple[np.ndarray, np.ndarray]]
"""Per Arrow chunk: UTF-8 bytes (bytes,) uint8 of its texts, and offsets (texts + 1,) int32 or int64 into them."""


def is_arrow(texts: object) -> bool:
    return hasattr(texts, "__arrow_c_stream__") or hasattr(texts, "__arrow_c_array__")


def arrow_chunks(texts: Any) -> Chunks:
    """The buffers of an Arrow column of strings, or of UTF-8 bytes; nulls become empty texts.

    From a table or record batch, the column `text` is used, or the only column. Only arrays with nulls, string views
    and dictionaries are copied. Raises `BadSource` for a column of another type.
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
        raise BadSource(f"This Arrow column has the type {array.type}, not strings.", hint="Cast it to `string`.")
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
        raise BadSource(f"{names.count('text')} of these columns are named `text`.", hint="Pass one of them.")
    if "text" not in names and len(names) != 1:
        raise BadSource(
            f"None of these columns is named `text`: {', '.join(names) or 'there are none'}.",
            hint="Pass the column with the texts.",
        )
    return rows.flatten()[names.index("text") if "text" in names else 0]


def as_strings(texts: Any) -> list[str]:
    """A list of str from an iterable of str and bytes; bytes that are not UTF-8 become U+FFFD.

    Raises `TypeError` for anything else, and for a single text.
    """
    _check_several_texts(texts)
    return [text if type(text) is str else _as_string(text) for text in texts]


def _check_several_texts(texts: object) -> None:
    if isinstance(texts, (str, bytes, bytearray, memoryview)):
        raise TypeError("This is a single text; pass a list or another iterable of texts.")
    if isinstance(texts, Mapping):  # iterating it would yield its keys
        raise TypeError(f"A text is str or bytes, not {type(texts).__name__}; pass its values.")


def _as_string(text: object) -> str:
    if isinstance(text, str):
        return str(text)
    if isinstance(text, bytes):
        return text.decode("utf-8", errors="replace")
    raise TypeError(f"A text is str or bytes, not {type(text).__name__}.")


def feed(texts: Any, strings: Callable[[list[str]], None], buffers: Callable[[Chunks], None]) -> None:
    """Passes all texts to `strings` and `buffers`, holding at most one batch in memory.

    `texts` is Arrow data, or an iterable whose items are single texts, lists of texts, or Arrow data, in any mix.
    """
    _check_several_texts(texts)
    if is_arrow(texts) and not isinstance(texts, pa.RecordBatchReader):  # a reader is read batch by batch
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
    """Passes Arrow data in portions, so that Ctrl-C works between them."""
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
