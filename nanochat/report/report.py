"""The report of a run, built around questions: what was made, is it any good, what it cost, what went wrong."""

from __future__ import annotations

from nanochat.report.cost import cost, money
from nanochat.report.document import Block, Chapter, Document, Heading, Sample, Samples, Tiles
from nanochat.report.incidents import incidents
from nanochat.report.inputs import ReportInputs, read_json
from nanochat.report.learning import learning
from nanochat.report.making import environment, making
from nanochat.report.material import material
from nanochat.report.quality import quality
from nanochat.report.summary import readable, tiles, what_was_made


def render(inputs: ReportInputs) -> tuple[str, str]:
    """The report, as Markdown and as HTML."""
    chat, code = inputs.chat.manifest.producer, inputs.base.manifest.producer.code_sha256[:16]
    price = money(inputs)
    numbers = [*tiles(inputs).pairs, *([("price of all stages", inputs.prices.text(price))] if price else [])]
    return Document(
        inputs.title,
        f"{chat.ended:%Y-%m-%d %H:%M} UTC · code {code}",
        [
            Chapter("What was made?", [Tiles(numbers), *what_was_made(inputs)]),
            Chapter("Is it any good?", quality(inputs)),
            Chapter("What does it write?", _texts(inputs)),
            Chapter("What was it made from?", material(inputs)),
            Chapter("How was it made?", [*making(inputs), *learning(inputs), *environment(inputs)]),
            Chapter("What did it cost?", cost(inputs)),
            Chapter("What went wrong?", incidents(inputs)),
        ],
    ).render()


def _texts(inputs: ReportInputs) -> list[Block]:
    """Samples of the base model, and answers of the chat model."""
    written = read_json(inputs.one("evaluate_base"), "evaluation.json").get("samples", [])
    answers = read_json(inputs.chat_evaluation, "evaluation.json").get("examples", [])
    samples = [Sample(each["prompt"], each["text"]) for each in written]
    examples = [
        Sample(each["prompt"], each["answer"], readable(each["task"]), each["right"], each["expected"])
        for each in answers
    ]
    blocks: list[Block] = [Heading("The base model continues a text"), Samples(samples)] if samples else []
    return [*blocks, *([Heading("The chat model answers"), Samples(examples)] if examples else [])]
