"""Config of the evaluation of a model on any text."""

from typing import Annotated

from pydantic import Field

from nanochat.config.base import Config


class TextEvaluationConfig(Config):
    """Evaluation of a model on any text: bits per byte, which compares models with different tokenizers."""

    window_tokens: Annotated[int, Field(ge=2, le=1 << 20)] = 2048
    """Most tokens that are read at once; less, if the model reads less."""
    context_tokens: Annotated[int, Field(ge=0, le=1 << 20)] = 1024
    """Tokens before each token that is scored, at least, where the document has so many; half a window at most."""
    documents: Annotated[int, Field(ge=0)] = 0
    """Documents to evaluate, the first ones; 0: all."""
