"""Runs recorded in a store, for tests."""

from __future__ import annotations

from nanochat.store.runs import RecordedRun, survey
from nanochat.store.store import Store


def newest(store: Store, limit: int = 0) -> list[RecordedRun]:
    """The newest runs, newest first; each record must be readable."""
    found, unread = survey(store, limit)
    assert not unread
    return found
