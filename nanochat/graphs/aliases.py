"""The aliases that a run of the pipeline moves."""

from nanochat.execution.graph import Results
from nanochat.graphs.pipeline import Chat
from nanochat.store.store import Store


def publish_aliases(store: Store, chat: Chat, results: Results) -> None:
    """Moves `base/latest`, `chat/latest` and `report/latest` to the artifacts of this run."""
    for alias, node in (("base/latest", chat.base), ("chat/latest", chat.chat), ("report/latest", chat.report)):
        store.set_alias(alias, results[node].manifest)
