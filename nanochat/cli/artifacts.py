"""Commands about artifacts and their aliases: `ls`, `show`, `alias`."""

import difflib
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from nanochat.cli.app import Reference, StoreUrl, app, fail_if_unreadable, open_store, out
from nanochat.errors import BadConfig, NotFound


@app.command
def ls(*, stage: Annotated[str, Parameter(help="Only this stage.")] = "", store: StoreUrl = "") -> None:
    """List the artifacts of the store, newest first, and the aliases.

    Example: `nanochat ls --stage pretrain`
    """
    from nanochat.console import duration, headline

    opened = open_store(store, read_only=True)
    names: dict[str, list[str]] = {}
    for alias, target in opened.aliases().items():
        names.setdefault(target.key, []).append(alias)
    table = Table("made", "stage", "key", "took", "", "aliases", box=None, pad_edge=False)
    found, unread = opened.survey(stage)
    manifests = sorted(found, key=lambda manifest: manifest.producer.ended, reverse=True)
    for manifest in manifests:
        table.add_row(
            f"{manifest.producer.ended:%Y-%m-%d %H:%M}", escape(manifest.stage), manifest.key[:8],
            duration(manifest.producer.seconds), headline(manifest.metrics), ", ".join(names.get(manifest.key, [])),
        )  # fmt: skip
    if manifests:
        out.print(table)
    elif stage and not unread:
        _report_no_artifact(stage, {manifest.stage for manifest in opened.manifests()}, opened.objects.root)
    elif not unread:
        out.print(f"Nothing in {opened.objects.root} yet; `nanochat run` computes artifacts.", markup=False)
    fail_if_unreadable(unread)


def _report_no_artifact(stage: str, stored: set[str], root: str) -> None:
    """Prints that a stage has no artifacts; raises `NotFound` when the stage does not exist."""
    from nanochat.stages import all_stages

    known = sorted(all_stages().keys() | stored)
    if stage not in known:
        near = difflib.get_close_matches(stage[:100], known, 1)
        hint = f"Did you mean `{near[0]}`?" if near else f"There are {', '.join(f'`{name}`' for name in known)}."
        raise NotFound(f"There is no stage `{stage[:100]}`.", hint=hint)
    has = f"it has artifacts of {', '.join(sorted(stored))}" if stored else "it has no artifacts yet"
    out.print(f"No artifact of the stage {stage} in {root}; {has}.", markup=False)


@app.command
def show(reference: Reference, *, store: StoreUrl = "") -> None:
    """Show the complete manifest of an artifact.

    Example: `nanochat show chat/latest`
    """
    out.print_json(open_store(store, read_only=True).resolve(reference).model_dump_json())


@app.command
def alias(
    name: str = "",
    reference: str = "",
    *,
    remove: Annotated[str, Parameter(help="Remove this alias; its artifact stays.")] = "",
    store: StoreUrl = "",
) -> None:
    """Point an alias at an artifact, or show its target; without a name: list all aliases.

    Example: `nanochat alias chat/production chat/latest`
    """
    if (remove and name) or (reference and not name):
        raise BadConfig(
            "An alias is set by its name and a reference, or removed by `--remove NAME` alone.",
            hint="`nanochat alias NAME REFERENCE`.",
        )
    opened = open_store(store, read_only=not (remove or reference))
    if remove:
        opened.remove_alias(remove)
        out.print(f"{remove} is removed.")
        return
    if not name:
        aliases = opened.aliases()
        for known, target in aliases.items():
            out.print(f"{known} → {target.stage}/{target.key}", markup=False)
        if not aliases:
            out.print(f"No aliases in {opened.objects.root}; runs set them.", markup=False)
        return
    if reference:
        opened.set_alias(name, opened.resolve(reference))
    manifest = opened.resolve(name)
    out.print(f"{name} → {manifest.stage}/{manifest.key}", markup=False)
