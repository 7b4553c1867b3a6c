"""Aliases: small mutable pointers to artifacts, moved by compare-and-swap.

v1/aliases/<name>.json
"""

import re
import shlex

from pydantic import BaseModel

from nanochat.errors import BadConfig, NotFound, StoreUnreachable
from nanochat.store.object_names import ObjectName
from nanochat.store.objects import Objects
from nanochat.store.record_format import parse_record

FOLDER, ENDING = "v1/aliases", ".json"
NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
LONGEST_NAME_BYTES = 200
SWAP_TRIES = 20


class Target(BaseModel, frozen=True):
    """The target of an alias."""

    stage: ObjectName
    key: ObjectName


class Aliases:
    """The aliases of a store."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def names(self) -> list[str]:
        """The names of all aliases. Ignores files with another suffix."""
        paths = (entry.path for entry in self._objects.list(FOLDER) if entry.path.endswith(ENDING))
        return [path.removeprefix(f"{FOLDER}/").removesuffix(ENDING) for path in paths]

    def all(self) -> dict[str, Target]:
        """All aliases and their targets. Raises `DamagedArtifact` at an unreadable one."""
        found = {name: self._read(name) for name in self.names()}
        return {name: target for name, target in found.items() if target}  # without those deleted meanwhile

    def find(self, name: str) -> Target | None:
        """The target of an alias, if it exists."""
        _check(name)
        return self._read(name)

    def set(self, name: str, target: Target) -> None:
        """Moves an alias, by compare-and-swap."""
        _check(name)
        known = self.names()
        for other in known if name not in known else []:
            if other.casefold() == name.casefold():
                raise BadConfig(
                    f"There is an alias `{other}` already, which differs from `{name}` only in upper and lower case.",
                    hint="Some disks do not distinguish them: choose another name.",
                )
        data = target.model_dump_json().encode()
        for _ in range(SWAP_TRIES):
            try:
                before = self._objects.read(_path(name))
            except FileNotFoundError:
                before = None
            if before == data or self._objects.swap(_path(name), data, before):
                return
        raise StoreUnreachable(f"Other processes keep moving the alias `{name}`.")

    def remove(self, name: str) -> None:
        """Deletes an alias, also one that cannot be parsed or has a name that `set` refuses.

        Raises `NotFound` if there is none.
        """
        if name not in self.names():  # a synchronised folder makes `latest (1).json`
            _check(name)
        if self._objects.size(_path(name)) is None:
            raise NotFound(f"There is no alias `{name}` in {self._objects.root}.", hint="`nanochat alias` lists them.")
        self._objects.delete([_path(name)])

    def _read(self, name: str) -> Target | None:
        try:
            data = self._objects.read(_path(name))
        except FileNotFoundError:
            return None
        hint = f"`nanochat alias --remove {shlex.quote(name)}` removes it; then set it again."
        return parse_record(Target, data, _path(name), "an alias", hint=hint)


def is_alias(name: str) -> bool:
    """Whether a text is a valid name of an alias."""
    parts = name.split("/")
    return (
        NAME.fullmatch(name) is not None
        and not any(part.endswith(ENDING) for part in parts)  # a folder of that name could collide with a file
        and all(len(part.encode()) <= LONGEST_NAME_BYTES for part in parts)
    )


def _check(name: str) -> None:
    if not is_alias(name):
        shown = name if len(name) <= 60 else f"{name[:57]}…"
        raise BadConfig(
            f"`{shown}` cannot be the name of an alias.",
            hint=f"Use letters, digits, `-`, `_` and `.`, up to {LONGEST_NAME_BYTES} bytes, not ending in `{ENDING}`: "
            "`chat/latest`.",
        )


def _path(name: str) -> str:
    return f"{FOLDER}/{name}{ENDING}"
