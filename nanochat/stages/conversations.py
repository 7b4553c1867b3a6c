"""Conversations: the mixture of supervised fine-tuning as rows with a loss mask, and the evaluation questions."""

from pathlib import Path

from nanochat.config.chat import ConversationsConfig, MixtureItem
from nanochat.data.conversation_rows import write_conversation_rows
from nanochat.data.mixture import render_mixture, write_questions
from nanochat.data.rows import rows_per_block
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import Conversations, Vocabulary
from nanochat.tasks.conversation import Split
from nanochat.tokenizer.bpe import Tokenizer


@stage(version=4, produces=Conversations, resource="cpu")
def converse(config: ConversationsConfig, vocabulary: Vocabulary, *, out: Path, context: Context) -> Metrics:
    """Render the training conversations to rows with a loss mask, and collect the held-out questions."""
    tokenizer = Tokenizer.load(vocabulary.path / "vocabulary.json")
    row_tokens = config.sequence_len + 1
    metrics: Metrics = {
        "sequence_len": config.sequence_len,
        "dtype": tokenizer.dtype.name,
        "block_rows": rows_per_block(row_tokens, tokenizer.dtype),
    }
    mixtures: dict[Split, tuple[MixtureItem, ...]] = {"train": config.train, "validation": config.validation}
    for split, items in mixtures.items():
        rendered = render_mixture(items, split, tokenizer, row_tokens, config.seed, context.progress)
        rows = write_conversation_rows(rendered, out, split, row_tokens, tokenizer.bos, config.seed)
        metrics |= {f"{split}_{name}": value for name, value in rendered.metrics(rows, row_tokens).items()}
    return metrics | write_questions(config.questions, config.seed, out / "questions.jsonl")
