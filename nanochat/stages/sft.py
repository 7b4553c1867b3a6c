"""The chat model: supervised fine-tuning under torchrun."""

from pathlib import Path

from nanochat.config.chat import SFTConfig
from nanochat.data.row_index import write_index
from nanochat.errors import BadSource
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import Artifact, Conversations, Model
from nanochat.workers.launch import launch


@stage(version=2, produces=Model, resource="gpu")
def sft(config: SFTConfig, base: Model, conversations: Conversations, *, out: Path, context: Context) -> Metrics:
    """Fine-tune the base model on conversations; the loss covers only the assistant's tokens."""
    trained, rendered = (_vocabulary(artifact) for artifact in (base, conversations))
    if trained and rendered and trained != rendered:
        raise BadSource(
            f"The conversations and the base model have different vocabularies ({rendered[:12]} and {trained[:12]}).",
            hint="Run `converse` with the vocabulary that the base model was trained with.",
        )
    rows = write_index([conversations], context.folder)
    inputs: dict[str, Path | list[Path]] = {"base": base.path, "conversations": rows}
    return launch("nanochat.training.sft", config, inputs, out, context)


def _vocabulary(artifact: Artifact) -> str:
    """Digest of the vocabulary that the artifact was made with; empty if unknown."""
    made_with = artifact.manifest.inputs.get("vocabulary", [])
    return made_with[0].digest if made_with else ""
