"""Flows that maintain the store: `verify-store` and `gc`. Each publishes a page with its findings."""

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
from nanochat.store.verification import check_artifacts, repair_store


@flow(name="verify-store", persist_result=False)
def verify_flow(store: str = "", repair: bool = False) -> State[Any]:
    """Hashes the payloads in the store again and compares. Fails when an artifact is damaged and not repaired.

    Args:
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        repair: Move damaged artifacts to the trash, so that the next run computes them again.
    """
    try:
        opened = open_store(store or settings.store_url(), read_only=not repair)
        found = check_artifacts(opened)
        damaged = {manifest.folder: "; ".join(problems) for manifest, problems in found.damaged}
        damaged |= {path: error.message for path, error in found.broken.items()}
        taken = repair_store(opened, found) if repair and damaged else None
    except NanochatError as error:
        return Failed(message=str(error), data=error)
    summary = f"{found.whole} of {found.artifacts} artifacts are whole ({found.bytes / 1e6:,.1f} MB hashed)."
    unread = {path: error.message for path, error in found.unread.items()}
    rows = [[f"`{path}`", what] for path, what in (damaged | unread).items()]
    page = f"# {summary}\n\n{table('damaged what', rows, len(rows), most=200)}"
    put("verify-store", page, summary)
    if damaged and not repair:
        return Failed(
            message=f"{summary} With `repair` the damaged ones move to the trash; the next run replaces them."
        )
    if taken:
        summary += f" {len(taken.parts)} moved to the trash; `nanochat gc --restore {taken.id}` restores them."
    for path, message in unread.items():
        return Failed(message=f"{summary} `{path}` could not be read: {message}")
    return Completed(message=summary)


@flow(name="gc", persist_result=False)
def gc_flow(
    store: str = "",
    keep_runs: Annotated[int, Field(ge=0)] = 3,
    min_age_hours: Annotated[float, Field(ge=0)] = 24.0,
    delete: bool = False,
) -> State[Any]:
    """Lists artifacts that no alias, pinned run or recent run needs, with sizes; deletes them if `delete` is set.

    `nanochat gc --restore` restores deleted artifacts for `NANOCHAT_TRASH_HOURS`.

    Args:
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        keep_runs: Artifacts of this many newest runs stay.
        min_age_hours: Younger artifacts stay.
        delete: Delete; otherwise only list.
    """
    try:
        opened = open_store(store or settings.store_url(), read_only=not delete)
        garbage = find_garbage(opened, keep_runs=keep_runs, min_age_hours=min_age_hours)
        rows = [[item.what, f"`{item.name}`", f"{item.bytes / 1e6:,.2f}", item.why] for item in garbage.items]
        summary = f"{len(garbage.items)} to delete, {garbage.bytes / 1e6:,.1f} MB; {garbage.kept} artifacts stay."
        if delete and garbage.items:
            done = delete_garbage(opened, garbage)
            summary = f"Deleted {len(done.items)}, {done.bytes / 1e6:,.1f} MB; {garbage.kept} artifacts stay."
            if done.trash_id:
                summary += f" `nanochat gc --restore {done.trash_id}` restores them."
    except NanochatError as error:
        return Failed(message=str(error), data=error)
    put("gc", f"# {summary}\n\n{table('what name MB why', rows, len(rows), most=200)}", summary)
    return Completed(message=summary)
