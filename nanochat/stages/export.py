"""A model in the format of Hugging Face."""

from pathlib import Path

from nanochat.config.export import ExportConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.export.model_folder import write_model
from nanochat.store.artifacts import Evaluation, HuggingFaceModel, Model


@stage(version=1, produces=HuggingFaceModel, resource="cpu")
def export(
    config: ExportConfig, model: Model, evaluations: list[Evaluation], *, out: Path, context: Context
) -> Metrics:
    """Write a model as transformers loads it, with a card that describes it."""
    parameters = write_model(model, evaluations, out, config.dtype)
    written = sum(path.stat().st_size for path in out.iterdir())
    return {"parameters": parameters, "dtype": config.dtype, "bytes": written}
