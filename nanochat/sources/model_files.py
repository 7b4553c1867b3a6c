"""The files of a foreign model: which of them are read, where they are, and their hashes.

A folder of this machine, a GGUF file, or `hf://org/name[@revision]`. Weights are safetensors or GGUF. Pickled weights
(`pytorch_model.bin`) can run code when they are loaded, and are never read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from nanochat.config.foreign import ForeignModelConfig, ForeignOptions
from nanochat.errors import BadSource
from nanochat.sources.file_names import quoted_names
from nanochat.sources.hub_address import parse_hub_address
from nanochat.sources.hub_errors import hub_errors
from nanochat.sources.local_files import check_regular, is_local, local_path
from nanochat.sources.retry import with_retries
from nanochat.store.manifest import measure_file

CONFIG = "config.json"
SAFETENSORS, GGUF = "*.safetensors", "*.gguf"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
DESCRIPTIONS = (
    CONFIG, "generation_config.json", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip
"""Files beside the weights that transformers reads."""
CODE = ("*.py",)


@dataclass(frozen=True)
class ModelFiles:
    """A foreign model as it was found."""

    source: str
    folder: Path
    names: tuple[str, ...]
    gguf: str
    """The GGUF file among them; empty: its weights are safetensors."""
    revision: str = ""


def find_model(address: str, options: ForeignOptions) -> ForeignModelConfig:
    """The config of a foreign model, with the hashes of its files; a model of the Hub is downloaded first.

    Raises `BadSource` if there is no model of a known format, `SourceUnreachable` if the Hub does not answer.
    """
    found = _local(address, options) if is_local(address) else _of_hub(address, options)
    hashes = tuple((name, measure_file(found.folder / name)[1]) for name in found.names)
    return ForeignModelConfig(
        **{**options.model_dump(), "gguf": found.gguf}, source=found.source, files=hashes, revision=found.revision
    )


def locate(model: ForeignModelConfig) -> Path:
    """The folder with the files of a model, which have the recorded hashes.

    Raises `BadSource` if one is missing or has changed, `SourceUnreachable` if the Hub does not answer.
    """
    names = [name for name, _ in model.files]
    if is_local(model.source):
        place = Path(model.source)
        folder = place.parent if place.is_file() else place
    else:
        folder = _download(model.source, names)
    for name, sha256 in model.files:
        file = folder / name
        if not file.exists():
            raise BadSource(
                f"`{file}` no longer exists.", hint="Restore it, or name the model's current folder in the command."
            )
        check_regular(file)
        if measure_file(file)[1] != sha256:
            raise BadSource(
                f"`{file}` is not the file that was recorded: its SHA-256 is not {sha256[:12]}….",
                hint="Restore it, or evaluate the model anew, which records it as it is.",
            )
    return folder


def is_foreign(address: str) -> bool:
    """Whether an address names a foreign model whatever the store contains: a scheme, or a path that is one."""
    return "://" in address or address.startswith(("/", "./", "../", "~")) or address.lower().endswith(".gguf")


def _local(address: str, options: ForeignOptions) -> ModelFiles:
    place = local_path(address)
    if not place.exists():
        raise BadSource(
            f"There is no file or folder `{place}`.", hint="A model of the Hugging Face Hub is `hf://org/name`."
        )
    if place.is_file():
        if not fnmatch(place.name.lower(), GGUF):
            raise BadSource(f"`{place}` is not a GGUF file.", hint="Name a folder with `config.json`, or a GGUF file.")
        check_regular(place)
        return ModelFiles(place.absolute().as_posix(), place.parent, (place.name,), place.name)
    files = [*place.iterdir(), *place.glob("additional_chat_templates/*")]
    names = sorted(file.relative_to(place).as_posix() for file in files if not file.is_dir())
    chosen, gguf = _choose(str(place), names, options)
    for name in chosen:
        check_regular(place / name)
    return ModelFiles(place.absolute().as_posix(), place, chosen, gguf)


def _of_hub(address: str, options: ForeignOptions) -> ModelFiles:
    repo, revision, inner = parse_hub_address(address)
    with hub_errors(address):
        info = with_retries(lambda: HfApi().model_info(repo, revision=revision))
    names = sorted(file.rfilename for file in info.siblings or [])
    if inner:
        options = options.model_copy(update={"gguf": inner})
    chosen, gguf = _choose(address, names, options)
    source = f"hf://{repo}@{info.sha}"
    return ModelFiles(source, _download(source, chosen), chosen, gguf, revision or "")


def _download(source: str, names: Sequence[str]) -> Path:
    """The folder in the Hub library's cache that has these files of a commit."""
    repo, commit, _ = parse_hub_address(source)
    with hub_errors(source):
        return Path(with_retries(lambda: snapshot_download(repo, revision=commit, allow_patterns=list(names))))


def _choose(address: str, names: Iterable[str], options: ForeignOptions) -> tuple[tuple[str, ...], str]:
    """The files of a model that are read, and the GGUF file among them. Raises `BadSource`."""
    names = [name for name in names if "/" not in name or name.startswith("additional_chat_templates/")]
    weights, ggufs, pickles = _matching(names, SAFETENSORS), _matching(names, GGUF), _matching(names, *PICKLES)
    weights = _matching(weights, "model*") or weights  # not those in another program's layout, nor adapters
    descriptions = _matching(names, *DESCRIPTIONS, *(CODE if options.trust_remote_code else ()))
    if options.gguf:
        if options.gguf not in ggufs:
            raise BadSource(
                f"`{address}` has no GGUF file `{options.gguf}`.", hint=f"It has {quoted_names(ggufs) or 'none'}."
            )
        return tuple(sorted({*descriptions, options.gguf})), options.gguf
    if weights and CONFIG in names:
        return tuple(sorted({*descriptions, *weights})), ""
    if len(ggufs) > 1:
        raise BadSource(
            f"`{address}` has {len(ggufs)} GGUF files.", hint=f"Choose one with `foreign.gguf`: {quoted_names(ggufs)}."
        )
    if ggufs:
        return tuple(sorted({*descriptions, *ggufs})), ggufs[0]
    if pickles:
        raise BadSource(
            f"`{address}` has its weights only in {quoted_names(pickles)}, a format that can run code when it is "
            "loaded.",
            hint="Convert them to safetensors (`save_pretrained` of transformers writes it).",
        )
    if weights:
        raise BadSource(f"`{address}` has weights, but no `{CONFIG}`.", hint="Name the folder that has both.")
    raise BadSource(
        f"`{address}` has no model: neither safetensors nor GGUF.",
        hint="Name a folder that transformers wrote, a GGUF file, or `hf://org/name`.",
    )


def _matching(names: Iterable[str], *patterns: str) -> list[str]:
    return [name for name in names if any(fnmatch(name.lower(), pattern) for pattern in patterns)]
