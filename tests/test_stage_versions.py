"""A stage whose source changed needs a decision: bump its version, or say that it means the same.

What a stage computes is defined by the module of its function, the worker that it launches, and all that these import,
except what only defines how work is done (`HOW`). Rust files are named per Python module that calls them (`RUST`).

`make accept-stages` records the sources as they are (do it after deciding).
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path

import pytest

from nanochat.stages import all_stages

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "stage_versions.json"
CRATE = ROOT / "rustbpe/src"

HOW = re.compile(
    r"nanochat\.(errors|system_errors|failures|variables|settings|events|console|profiles|config\..*"
    r"|workers\..*|execution\..*|store\..*|lineage\.(?!picture).*"
    r"|training\.(checkpoint|shard_writer|trackers|metrics|micro_batch))"
)
"""Modules that decide how work is done, or whose values are in the key anyway (`config`)."""
RUST = {
    "nanochat.tokenizer.bpe": (
        *("split", "train", "encode", "vocab", "text", "parallel"),
        *("hash", "packed_piece", "huge_pages", "prefetch", "buffer_pool"),
    ),
    "nanochat.tokenizer.huggingface_format": (),
    "nanochat.tokenizer.tiktoken_format": (),
    "nanochat.tokenizer.training": (),
    "nanochat.data.document_stats": ("parquet",),
    "nanochat.data.packing": ("pack",),
    "nanochat.data.conversation_rows": ("pack",),
    "nanochat.inference.native_decoder": ("network",),
}
"""Module that calls the crate → the files and folders of the crate that it uses, beside those of what it imports."""


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.exists()), None)


@cache
def uses(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, anywhere in it, or launches as a worker."""
    path = file_of(module)
    assert path, module
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(origin)):
                names = {f"{origin}.{alias.name}" for alias in node.names}
                found |= {name if file_of(name) else origin for name in names}
            case ast.Constant(value=str(text)) if re.fullmatch(r"nanochat\.(training|evaluation)\.\w+", text):
                found.add(text)
    return frozenset(name for name in found if name.startswith("nanochat.") and file_of(name))


def modules_of(name: str) -> set[str]:
    """All modules whose text defines what a stage computes."""
    found, waiting = set[str](), {all_stages()[name].function.__module__}
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= {used for used in uses(module) if not HOW.fullmatch(used)} - found
    return found


def files_of(name: str) -> list[Path]:
    modules = modules_of(name)
    files = {path for module in modules if (path := file_of(module))}
    files |= {path for module in modules & RUST.keys() for place in RUST[module] for path in rust_files(place)}
    rooms = {path.parent for path in files}
    copied = ("*.jinja", "*.html", "*_nanochat_pipeline.py")  # files that are read, not imported
    return sorted(files | {path for room in rooms for pattern in copied for path in room.glob(pattern)})


def rust_files(place: str) -> list[Path]:
    found = sorted([*CRATE.glob(f"{place}.rs"), *CRATE.glob(f"{place}/**/*.rs")])
    assert found, f"there is no `{place}` in the crate"
    return found


def source_digest(name: str) -> str:
    digest = hashlib.sha256()
    for path in files_of(name):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def stages() -> dict[str, int]:
    return {name: stage.version for name, stage in all_stages().items()}


def recorded() -> dict[str, dict[str, object]]:
    return {name: {"version": version, "source": source_digest(name)} for name, version in stages().items()}


@pytest.mark.parametrize("name", stages())
def test_a_changed_stage_was_decided_on(name: str) -> None:
    before, now = json.loads(RECORD.read_text())[name], recorded()[name]
    assert before == now, (
        f"The source of `{name}` changed. If it now computes something else, bump its version; "
        "then, or if it means the same, run `make accept-stages`."
    )


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("evaluate_chat", "nanochat.tokenizer.chat"),
        ("evaluate_chat", "nanochat.tools.calculator"),
        ("evaluate_chat", "nanochat.world.questions"),
        ("converse", "nanochat.tokenizer.bpe"),
        ("converse", "nanochat.sources.json_records"),
        ("sft", "nanochat.scaling"),
        ("pretrain", "nanochat.optim.muon"),
        ("download", "nanochat.sources.http_files"),
        ("pack", "nanochat.data.packing"),
    ],
)
def test_what_decides_a_result_is_found(stage: str, module: str) -> None:
    assert module in modules_of(stage)


def test_how_work_is_done_is_left_out() -> None:
    assert not any(HOW.fullmatch(module) for name in stages() for module in modules_of(name))


def test_every_caller_of_the_crate_names_its_files() -> None:
    callers = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "nanochat").glob("**/*.py")
        if re.search(r"^from nanochat(\._rustbpe import| import .*_rustbpe)", path.read_text(), re.MULTILINE)
    }
    assert callers == RUST.keys()


def test_every_file_of_the_crate_decides_on_a_stage() -> None:
    named = {path for places in RUST.values() for place in places for path in rust_files(place)}
    faces = {CRATE / "lib.rs", *(CRATE / "python").glob("*.rs")}
    assert set(CRATE.glob("**/*.rs")) - faces == named


if __name__ == "__main__":
    RECORD.write_text(json.dumps(recorded(), indent=2) + "\n")
