"""Config of the export of a model."""

from typing import Literal

from nanochat.config.base import Config


class ExportConfig(Config):
    """A model in the format of Hugging Face."""

    dtype: Literal["fp32", "bf16"] = "fp32"
    """Dtype of the weights: `fp32` as they were trained, or `bf16` in half the bytes."""
