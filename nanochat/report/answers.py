"""The answers of an evaluation in the store, for comparisons."""

from nanochat.evaluation.comparison import Answers, rules_of
from nanochat.evaluation.examples import FILE_NAME, read_examples
from nanochat.store.artifacts import Artifact


def has_answers(evaluation: Artifact) -> bool:
    """Whether the evaluation has kept its answers."""
    return any(file.path == FILE_NAME for file in evaluation.manifest.files)


def answers_of(name: str, evaluation: Artifact) -> Answers:
    """Its answers, under the name of the model."""
    made = evaluation.manifest
    return Answers(name, read_examples(evaluation.path), rules_of(made.stage, made.stage_version, made.config))
