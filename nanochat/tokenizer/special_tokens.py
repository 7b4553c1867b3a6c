"""Special tokens: names with ids that no text is encoded to."""

from collections.abc import Mapping, Sequence

from nanochat.errors import DamagedArtifact

MAX_IDS = 1 << 24
"""More than any vocabulary has: a file with higher ids is damaged."""


def number_special_tokens(names: Sequence[str], first: int) -> dict[str, int]:
    """Numbers a list of names from `first`: name → id.

    Raises `DamagedArtifact` if it is not a list, or has an invalid or repeated name.
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
        if len(name.encode()) == 1:  # the first ids are bytes
            raise _also_ordinary(name, ord(name))
        ids[name] = first + len(ids)
    return ids


def check_special_tokens(special_tokens: Mapping[str, int], tokens: Sequence[bytes | None]) -> dict[str, int]:
    """Returns name → id as given. `tokens` has the bytes of each ordinary id.

    Raises `DamagedArtifact` if a name or id is invalid, used twice, or used by an ordinary token.
    """
    if not isinstance(special_tokens, Mapping):
        raise DamagedArtifact(f"The special tokens are a {type(special_tokens).__name__}, not ids by name.")
    names: dict[int, str] = {}
    for name, number in special_tokens.items():
        _check_name(name)
        if type(number) is not int or not 0 <= number < MAX_IDS:
            raise DamagedArtifact(
                f"The special token `{name}` has the id {number!r:.40}, but ids are whole numbers below {MAX_IDS:,}."
            )
        if number in names:
            raise DamagedArtifact(f"The special tokens `{names[number]}` and `{name}` have the same id, {number}.")
        if number < len(tokens) and tokens[number] is not None:
            raise DamagedArtifact(f"The special token `{name}` has the id {number}, which another token has.")
        names[number] = name
    spelled = {name.encode(): name for name in special_tokens}
    for number, token in enumerate(tokens):
        if token in spelled:
            raise _also_ordinary(spelled[token], number)
    return dict(special_tokens)


def _also_ordinary(name: str, number: int) -> DamagedArtifact:
    return DamagedArtifact(
        f"The special token `{name}` is also the ordinary token {number}.",
        hint="Use a name that is not a token, such as `<|name|>`.",
    )


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise DamagedArtifact(f"A special token is {name!r:.60}, of type {type(name).__name__}, not a name.")
    if not name:
        raise DamagedArtifact("A special token has an empty name.", hint="Remove it, or give it a name.")
    if not name.isprintable() and any("\ud800" <= character <= "\udfff" for character in name):
        raise DamagedArtifact(f"The special token {name!r:.60} contains a lone surrogate, which is not a character.")
