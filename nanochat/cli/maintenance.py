"""Commands that maintain the store: `verify`, `gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from nanochat.cli.app import StoreUrl, app, between, fail, open_store, out
from nanochat.errors import BadConfig, NanochatError

if TYPE_CHECKING:
    from nanochat.store.manifest import Manifest
    from nanochat.store.trash import Restored


@app.command
def verify(
    reference: Annotated[str, Parameter(help="One artifact and all it was made from; empty: the whole store.")] = "",
    *,
    repair: Annotated[
        bool, Parameter(negative="", help="Move damaged artifacts to the trash; the next run computes them again.")
    ] = False,
    store: StoreUrl = "",
) -> None:
    """Hash the payloads in the store again, and compare with the manifests.

    Example: `nanochat verify chat/latest`
    """
    from nanochat.lineage.ancestry import ancestors
    from nanochat.store.verification import check_artifacts, repair_store

    opened = open_store(store, read_only=not repair)
    manifests: list[Manifest] | None = None
    if reference:
        top = opened.resolve(reference)
        manifests = [top, *ancestors(opened, top)]
    with out.status("hashing") as status:

        def report(manifest: Manifest, position: int, count: int) -> None:
            status.update(f"hashing {manifest.stage} {manifest.key[:8]} ({position} of {count})")

        found = check_artifacts(opened, manifests, report)
    for manifest, problems in found.damaged:
        for problem in problems:
            out.print(f"[red]damaged[/] {manifest.stage} {manifest.key[:8]}: {escape(problem)}")
    for error in found.broken.values():
        out.print(f"[red]damaged[/] {escape(error.message)}")
    for path, error in found.unread.items():
        out.print(f"[red]unreadable[/] {escape(path)}: {escape(error.message)}")
    out.print(f"{found.whole} of {found.artifacts} artifacts are whole ({found.bytes / 1e6:,.1f} MB hashed).")
    damaged = len(found.damaged) + len(found.broken)
    if damaged and repair and (record := repair_store(opened, found)):
        for part in record.parts:
            out.print(f"moved to the trash: {part.name}", markup=False)
        out.print(f"`nanochat gc --restore {record.id}` restores them.")
    elif damaged and not repair:
        hint = "`nanochat verify --repair` moves them to the trash; the next run computes them again."
        fail(NanochatError(f"{damaged} damaged.", hint=hint))
    for error in found.unread.values():
        fail(error)


@app.command
def gc(
    trash_id: Annotated[str, Parameter(help="With `--restore`: which deletion; by default the newest.")] = "",
    *,
    keep_runs: Annotated[int, between(0, 1_000_000), Parameter(help="Artifacts of this many newest runs stay.")] = 3,
    min_age_hours: Annotated[float, between(0, 1_000_000), Parameter(help="Younger artifacts stay.")] = 24.0,
    trash_hours: Annotated[
        float | None,
        between(0, 1_000_000),
        Parameter(help="How long a deletion can be restored (`NANOCHAT_TRASH_HOURS`, 24); 0: not at all."),
    ] = None,
    delete: Annotated[bool, Parameter(negative="", help="Delete; otherwise only list.")] = False,
    restore: Annotated[bool, Parameter(negative="", help="Restore a deletion.")] = False,
    store: StoreUrl = "",
) -> None:
    """List what no alias, pinned run or recent run needs, with its size; with `--delete`, delete it.

    A deletion stays in the trash of the store for a day: `nanochat gc --restore` restores it.

    Examples: `nanochat gc --keep-runs 1 --delete`, `nanochat gc --restore`
    """
    from nanochat.store import trash
    from nanochat.store.deletion import delete_garbage
    from nanochat.store.garbage import find_garbage
    from nanochat.store.trash import restore_deletion

    if trash_id and not restore:
        raise BadConfig(f"The deletion `{trash_id}` needs `--restore`.", hint=f"`nanochat gc --restore {trash_id}`")
    if restore and delete:
        raise BadConfig("`--restore` and `--delete` exclude each other.")
    opened = open_store(store, read_only=not (delete or restore))
    if restore:
        _report_restored(restore_deletion(opened, trash_id))
        return
    planned = find_garbage(opened, keep_runs=keep_runs, min_age_hours=min_age_hours, trash_hours=trash_hours)
    for note in planned.notes:
        out.print(escape(note))
    for name, target in opened.aliases().items():
        if opened.read(target.stage, target.key) is None:
            out.print(
                f"The alias {name} points to {target.stage}/{target.key}, which is gone: it protects nothing.",
                markup=False,
            )
    expired = {item.name for item in planned.items if item.what == "trash"}
    for each in trash.deletions(opened):
        if each.record.id not in expired:
            out.print(
                f"In the trash: {each.record.id}, {len(each.record.parts)} deleted by {each.record.by}, "
                f"{each.bytes / 1e6:,.1f} MB; `nanochat gc --restore {each.record.id}` restores it.",
                markup=False,
            )
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
    if expired:
        out.print(f"{len(expired)} in the trash for more than {planned.trash_hours:g} h: permanently.")
    if not delete:
        out.print("Nothing was deleted; `nanochat gc --delete` deletes.")
        return
    done = delete_garbage(opened, planned, on_wait=lambda holder: out.print(f"waiting for {holder}"))
    spared = f"; {len(done.spared)} kept, because they came into use or were deleted meanwhile" if done.spared else ""
    out.print(f"Deleted {len(done.items)}, {done.bytes / 1e6:,.1f} MB{spared}.")
    if done.trash_id:
        out.print(
            f"`nanochat gc --restore {done.trash_id}` restores this; "
            f"after {planned.trash_hours:g} h the next `nanochat gc --delete` frees the space."
        )


def _report_restored(restored: Restored) -> None:
    for part in restored.parts:
        out.print(f"restored {part.what} {part.name}", markup=False)
    for problem in restored.problems:
        out.print(f"[yellow]not restored[/] {escape(problem)}")
    out.print(f"{len(restored.parts)} of the deletion {restored.id} are restored; `gc` keeps the artifacts for a day.")
    if restored.problems:
        fail(NanochatError(f"{len(restored.problems)} could not be restored.", hint="They stay in the trash."))
