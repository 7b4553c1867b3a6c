"""Special tokens: names that text never becomes, each with an id of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nanochat.errors import DamagedArtifact

MOST_IDS = 1 << 24
"""More ids than any vocabulary has; what names higher ones is damaged."""


def number_special_tokens(names: Sequence[str], first: int) -> dict[str, int]:
    """Name → id, in the order of a list, from `first` on.

    Raises `DamagedArtifact` when it is no list, or holds what cannot be a name, or one name twice: the second id would
    be lost, and with it the place of all that follow.
    """
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence):
        raise DamagedArtifact(
            f"The special tokens are a {type(names).__name__} ({names!r:.60}), not a list of names.",
            hint='Give a list, such as ["<|bos|>"].',
        )
    ids: dict[str, int] = {}
    for name in names:
        _check_name(name)
        if name in ids:
            raise DamagedArtifact(f"The special token `{name}` is listed twice.", hint="List each name once.")
        if len(name.encode()) == 1:  # bytes are ids, whatever else is
            raise _also_ordinary(name, ord(name))
        ids[name] = first + len(ids)
    return ids


def check_special_tokens(special_tokens: Mapping[str, int], tokens: Sequence[bytes | None]) -> dict[str, int]:
    """Name → id, as given, if the names and ids are neither each other's nor those of `tokens`, the bytes by id.

    Raises `DamagedArtifact` otherwise.
    """
    if not isinstance(special_tokens, Mapping):
        raise DamagedArtifact(f"The special tokens are a {type(special_tokens).__name__}, not ids by name.")
    names: dict[int, str] = {}
    for name, number in special_tokens.items():
        _check_name(name)
        if type(number) is not int or not 0 <= number < MOST_IDS:
            raise DamagedArtifact(
                f"The special token `{name}` has the id {number!r:.40}, and ids are whole numbers below {MOST_IDS:,}."
            )
        if number in names:
            raise DamagedArtifact(f"The special tokens `{names[number]}` and `{name}` have the same id, {number}.")
        if number < len(tokens) and tokens[number] is not None:
            raise DamagedArtifact(f"The special token `{name}` has the id {number}, which is another token's.")
        names[number] = name
    spelled = {name.encode(): name for name in special_tokens}
    for number, token in enumerate(tokens):
        if token in spelled:
            raise _also_ordinary(spelled[token], number)
    return dict(special_tokens)


def _also_ordinary(name: str, number: int) -> DamagedArtifact:
    return DamagedArtifact(
        f"The special token `{name}` is also the ordinary token {number}.",
        hint="Take a name that text does not become, such as `<|name|>`.",
    )


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise DamagedArtifact(f"A special token is {name!r:.60}, of type {type(name).__name__}, not a name.")
    if not name:
        raise DamagedArtifact("A special token is an empty text.", hint="Leave it out, or give it a name.")
    if not name.isprintable() and any("\ud800" <= character <= "\udfff" for character in name):
        raise DamagedArtifact(f"The special token {name!r:.60} has half a character (a lone surrogate) in it.")
