"""Commands that keep the store whole and small, and carry things out of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from nanochat.cli.app import Reference, StoreUrl, app, between, fail, open_store, out
from nanochat.errors import NanochatError

if TYPE_CHECKING:
    from nanochat.store.manifest import Manifest


@app.command
def verify(
    reference: Annotated[str, Parameter(help="One artifact and all it was made from; empty: the whole store.")] = "",
    *,
    repair: Annotated[
        bool, Parameter(negative="", help="Take damaged artifacts out, so that the next run makes them again.")
    ] = False,
    store: StoreUrl = "",
) -> None:
    """Hash again what the store holds, and compare with the manifests.

    Example: `nanochat verify chat/latest`
    """
    from nanochat.store.lineage import ancestors

    opened = open_store(store)
    manifests: list[Manifest] = list(opened.manifests())
    if reference:
        top = opened.resolve(reference)
        manifests = [top, *ancestors(opened, top)]
    damaged = 0
    with out.status("hashing") as status:
        for position, manifest in enumerate(manifests):
            status.update(f"hashing {manifest.stage} {manifest.key[:8]} ({position + 1} of {len(manifests)})")
            problems = opened.verify(manifest)
            damaged += bool(problems)
            for problem in problems:
                out.print(f"[red]damaged[/] {manifest.stage} {manifest.key[:8]}: {problem}")
            if problems and repair:
                opened.remove(manifest)
                out.print(f"        taken out: {manifest.stage} {manifest.key[:8]}")
    size = sum(entry.size for manifest in manifests for entry in manifest.files)
    out.print(f"{len(manifests) - damaged} of {len(manifests)} artifacts are whole ({size / 1e6:,.1f} MB hashed).")
    if damaged and not repair:
        fail(
            NanochatError(
                f"{damaged} damaged.", hint="`nanochat verify --repair` takes them out; the next run makes them again."
            )
        )


@app.command
def alias(
    name: str = "",
    reference: str = "",
    *,
    remove: Annotated[str, Parameter(help="Take this alias away; what it points to stays.")] = "",
    store: StoreUrl = "",
) -> None:
    """Point an alias at an artifact, or say where it points; without a name: list them all.

    Example: `nanochat alias chat/production chat/latest`
    """
    opened = open_store(store)
    if remove:
        opened.remove_alias(remove)
        out.print(f"{remove} is no alias any more.")
        return
    if not name:
        for known, target in opened.aliases().items():
            out.print(f"{known} → {target.stage}/{target.key}")
        return
    if reference:
        opened.set_alias(name, opened.resolve(reference))
    manifest = opened.resolve(name)
    out.print(f"{name} → {manifest.stage}/{manifest.key}")


@app.command
def gc(
    *,
    keep_runs: Annotated[
        int, between(0, 1_000_000), Parameter(help="What the newest so many runs made or reused stays.")
    ] = 3,
    min_age_hours: Annotated[float, between(0, 1_000_000), Parameter(help="What is younger stays.")] = 24.0,
    delete: Annotated[bool, Parameter(negative="", help="Do it; otherwise it is only said.")] = False,
    store: StoreUrl = "",
) -> None:
    """Say what no alias, pinned run or recent run needs, and how much room it takes; with `--delete`, delete it.

    Example: `nanochat gc --keep-runs 1 --delete`
    """
    from nanochat.store import retention

    opened = open_store(store)
    planned = retention.plan(opened, keep_runs=keep_runs, min_age_hours=min_age_hours)
    if not planned.items:
        out.print(f"Nothing to delete; {planned.kept} artifacts stay.")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("what", "name", "MB", "why"):
        table.add_column(title, justify="right" if title == "MB" else "left")
    for item in planned.items:
        name = f"{item.name[:-56]}" if item.what == "artifact" else item.name
        table.add_row(item.what, escape(name), f"{item.bytes / 1e6:,.2f}", item.why)
    out.print(table)
    out.print(f"\n{len(planned.items)} to delete, {planned.bytes / 1e6:,.1f} MB; {planned.kept} artifacts stay.")
    if not delete:
        out.print("Nothing was deleted; `nanochat gc --delete` does it.")
        return
    done = retention.delete(opened, planned, on_wait=lambda run: out.print(f"waiting for a word of the run {run}"))
    spared = f"; {len(done.spared)} spared, they came into use or went meanwhile" if done.spared else ""
    out.print(f"Deleted {len(done.items)}, {done.bytes / 1e6:,.1f} MB{spared}.")


@app.command
def export(reference: Reference, folder: Path, *, store: StoreUrl = "") -> None:
    """Copy an artifact's files into a folder; of a model or vocabulary also `tokenizer.json` and `tokenizer.tiktoken`.

    Example: `nanochat export chat/latest my-model`
    """
    import shutil

    from nanochat.tokenizer.bpe import Tokenizer
    from nanochat.tokenizer.formats import write_hf, write_tiktoken

    opened = open_store(store)
    artifact = opened.artifact(opened.resolve(reference), reused=True)
    shutil.copytree(artifact.path, folder, dirs_exist_ok=True)
    if (folder / "vocabulary.json").exists():
        tokenizer = Tokenizer.load(folder / "vocabulary.json")
        write_hf(tokenizer, folder / "tokenizer.json")
        write_tiktoken(tokenizer, folder / "tokenizer.tiktoken")
    for path in sorted(folder.iterdir()):
        out.print(str(path))
