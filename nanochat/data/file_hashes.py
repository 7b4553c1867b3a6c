"""Hashes of the local files of a mixture: they become part of the config, and so of the key."""

import os
from pathlib import Path

from nanochat.config.chat import ConversationsConfig, MixtureItem
from nanochat.config.preferences import PairsConfig
from nanochat.config.rl import RLTask
from nanochat.errors import BadSource
from nanochat.sources.file_names import CHAT_FORMATS
from nanochat.sources.local_files import is_local, list_local, local_path
from nanochat.store.manifest import digest_of_files, measure_file


def with_file_hashes(config: ConversationsConfig) -> ConversationsConfig:
    """The same config with the current SHA-256 of each local source.

    Raises `BadSource` if a source cannot be read, or if an item's `sha256` is set and differs.
    """
    filled = {
        name: tuple(item.model_copy(update={"sha256": hash_of_source(item)}) for item in items)
        for name, items in (("train", config.train), ("validation", config.validation), ("questions", config.questions))
    }
    return config.model_copy(update=filled)


def hash_of_source(item: MixtureItem | RLTask | PairsConfig) -> str:
    """The hash of a file, or of the names and bytes in a folder.

    A missing source keeps the item's own hash: the stage reports the error. For a single file, `sha256` may also be the
    hash that `sha256sum` prints.
    """
    if not item.source or not is_local(item.source):
        return item.sha256
    place = local_path(item.source)
    try:
        if not place.exists():
            return item.sha256
        if place.is_file():
            files = {".": place}
        elif isinstance(item, MixtureItem) and item.task == "conversations":
            files = {each.path: each.file for each in list_local(place, CHAT_FORMATS).files}
        else:
            files = {file.relative_to(place).as_posix(): file for file in _files_below(place)}
        measured = [(name, *measure_file(file)) for name, file in files.items()]
    except OSError as error:
        raise BadSource(f"`{error.filename or place}` cannot be read: {error.strerror or error}.") from error
    found = digest_of_files(measured)
    if item.sha256 and item.sha256 not in (found, *(sha256 for name, _, sha256 in measured if name == ".")):
        raise BadSource(
            f"`{item.source}` does not match the item's `sha256` ({item.sha256[:12]}…, found {found[:12]}…).",
            hint="Restore the file, or remove `sha256` from the item to use the current file.",
        )
    return item.sha256 or found


def _files_below(folder: Path) -> list[Path]:
    """Every file below a folder; linked folders are followed once. Raises `OSError` if a part cannot be listed."""

    def failed(error: OSError) -> None:
        raise error

    found: list[Path] = []
    seen = {folder.resolve(), *folder.resolve().parents}
    for place, folders, names in os.walk(folder, onerror=failed, followlinks=True):
        targets = {name: Path(place, name).resolve() for name in folders}
        folders[:] = [name for name in folders if targets[name] not in seen]
        seen.update(targets.values())
        found += [Path(place, name) for name in names]
    return sorted(found)
