"""Flows that look after the store: hash it again, and clear it up. Both say on a page what they found."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.pages import put, table
from flows.tasks import open_store
from nanochat import settings
from nanochat.errors import NanochatError
from nanochat.store.deletion import delete_garbage
from nanochat.store.garbage import find_garbage
from nanochat.store.repair import repair_store
from nanochat.store.verification import check_artifacts


@flow(name="verify-store", persist_result=False)
def verify_flow(store: str = "", repair: bool = False) -> State[Any]:
    """Hashes again what the store holds. Fails when something is damaged and not repaired.

    Args:
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        repair: Take damaged artifacts out, so that the next run makes them again.
    """
    try:
        opened = open_store(store or settings.store_url(), read_only=not repair)
        found = check_artifacts(opened)
        damaged = {manifest.folder: "; ".join(problems) for manifest, problems in found.damaged}
        damaged |= {path: error.message for path, error in found.broken.items()}
        taken = repair_store(opened, found) if repair and damaged else None
    except NanochatError as error:
        return Failed(message=str(error), data=error)
    said = f"{found.whole} of {found.artifacts} artifacts are whole ({found.bytes / 1e6:,.1f} MB hashed)."
    unread = {path: error.message for path, error in found.unread.items()}
    rows = [[f"`{path}`", what] for path, what in (damaged | unread).items()]
    page = f"# {said}\n\n{table('damaged what', rows, len(rows), most=200)}"
    put("verify-store", page, said)
    if damaged and not repair:
        return Failed(message=f"{said} Run it with `repair`: the damaged ones go, and the next run makes them again.")
    if taken:
        said += f" {len(taken.parts)} taken out; `nanochat gc --restore {taken.id}` takes that back."
    for path, message in unread.items():
        return Failed(message=f"{said} `{path}` could not be read: {message}")
    return Completed(message=said)


@flow(name="gc", persist_result=False)
def gc_flow(
    store: str = "",
    keep_runs: Annotated[int, Field(ge=0)] = 3,
    min_age_hours: Annotated[float, Field(ge=0)] = 24.0,
    delete: bool = False,
) -> State[Any]:
    """Says what no alias, pinned run or recent run needs, and how much room it takes; deletes it if told to.

    What is deleted can be taken back for `NANOCHAT_TRASH_HOURS`, by `nanochat gc --restore`.

    Args:
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        keep_runs: What the newest so many runs made or reused stays.
        min_age_hours: What is younger stays.
        delete: Do it; otherwise it is only said.
    """
    try:
        opened = open_store(store or settings.store_url(), read_only=not delete)
        plan = find_garbage(opened, keep_runs=keep_runs, min_age_hours=min_age_hours)
        rows = [[item.what, f"`{item.name}`", f"{item.bytes / 1e6:,.2f}", item.why] for item in plan.items]
        said = f"{len(plan.items)} to delete, {plan.bytes / 1e6:,.1f} MB; {plan.kept} artifacts stay."
        if delete and plan.items:
            done = delete_garbage(opened, plan)
            said = f"Deleted {len(done.items)}, {done.bytes / 1e6:,.1f} MB; {plan.kept} artifacts stay."
            if done.trash_id:
                said += f" `nanochat gc --restore {done.trash_id}` takes that back."
    except NanochatError as error:
        return Failed(message=str(error), data=error)
    put("gc", f"# {said}\n\n{table('what name MB why', rows, len(rows), most=200)}", said)
    return Completed(message=said)
