"""The page of questions of an evaluation: prompts, choices with their bits, answers and verdicts, with a filter.

One file that loads nothing: the data are compressed inside it. Ten thousand questions take some megabytes.
"""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat.evaluation.examples import Example
from nanochat.evaluation.tables import TaskRow, task_rows

PAGE = Path(__file__).parent / "questions.html"
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def questions_page(title: str, subtitle: str, examples: Sequence[Example]) -> str:
    """The page as HTML, with a table of the tasks above the questions."""
    data = {
        "title": title,
        "subtitle": subtitle,
        "tasks": [{"name": name, **_of_task(line)} for name, line in task_rows(examples).items()],
        "questions": [_question(example) for example in examples],
    }
    packed = gzip.compress(json.dumps(data, ensure_ascii=False, allow_nan=False).encode(), 6, mtime=0)
    text = PAGE.read_text(encoding="utf-8")
    values = {"POLICY": _policy(text), "TITLE": html.escape(title), "DATA": base64.b64encode(packed).decode()}
    return re.sub("@(POLICY|TITLE|DATA)@", lambda match: values[match[1]], text)


def _policy(text: str) -> str:
    """A content security policy that allows exactly the style and the script of the page, and nothing remote."""
    hashes = {
        kind: base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        for kind, content in INLINE.findall(text)
    }
    allowed = "; ".join(f"{kind}-src 'sha256-{digest}'" for kind, digest in hashes.items())
    return f"default-src 'none'; base-uri 'none'; form-action 'none'; {allowed}"


def _of_task(line: TaskRow) -> dict[str, Any]:
    return {
        "accuracy": line.accuracy,
        "interval": [line.interval.low, line.interval.high],
        "baseline": line.baseline,
        "questions": line.questions,
        "gold_bits": line.gold_bits,
    }


def _question(example: Example) -> dict[str, Any]:
    return {
        "task": example.task,
        "question": example.question,
        "sample": example.sample,
        "subject": example.subject,
        "prompt": example.prompt,
        "choices": example.choices,
        "nats": [round(nats, 4) for nats in example.choice_nats],
        "tokens": example.choice_tokens,
        "bytes": example.choice_bytes,
        "gold": example.gold,
        "gold_bits": None if example.gold_bits is None else round(example.gold_bits, 4),
        "answer": example.answer,
        "right": example.right,
        "flexible": example.right_flexible,
        "verdict": example.verdict,
    }
