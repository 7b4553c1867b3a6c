"""The claims of `docs/training.md` about a GPU, each with the part of `gpu.py` that shows it; and the verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PASS, FAIL, NOT_RUN = "PASS", "FAIL", "NOT RUN"


@dataclass(frozen=True)
class Claim:
    """A sentence of the docs. `part` is empty where another command shows it, which `elsewhere` names."""

    name: str
    sentence: str
    part: str
    elsewhere: str = ""


CLAIMS = (
    Claim("kernels", "each attention kernel that can be imported is within 1% of fp64 at T = 2,048", "attention"),
    Claim("auto", "`kernels.attention=auto` takes a kernel without dense masks", "attention"),
    Claim("float8", "a product in 8 bits is within 5% of fp64, its gradients within 10%", "float8"),
    Claim("one-graph", "the network and the loss have no graph break", "graphs"),
    Claim("compiled-once", "training and evaluation compile the network and the loss once each", "graphs"),
    Claim("no-wait", "within a step, the host does not wait for the GPU", "graphs"),
    Claim("d12-bf16", "bf16 reaches 42% MFU at d12", "d12-bf16"),
    Claim("d20-bf16", "bf16 reaches 50% MFU at d20", "d20-bf16"),
    Claim("d24-bf16", "bf16 reaches 53% MFU at d24", "d24-bf16"),
    Claim("d20-fp8", "fp8 reaches 55% MFU at d20", "d20-fp8"),
    Claim("d24-fp8", "fp8 reaches 60% MFU at d24", "d24-fp8"),
    Claim("micro-batch", "the micro-batch that is chosen for d24 fits the memory", "d24-bf16"),
    Claim("peer", "a step of d12 is faster than nanochat's, rewritten, with the same attention kernel", "peer"),
    Claim("peer-masks", "a step of d12 is faster than nanochat's, rewritten, with dense masks", "peer-masks"),
    Claim("precisions", "bf16 and fp16 train within 0.02 nats of fp32, fp8 within 0.05", "precisions"),
    Claim("resumed", "a resumed run begins with the same weights and optimizer state, bit for bit", "resume"),
    Claim("evaluation", "base evaluation equals the last one of training", "", "`nanochat run --profile d12`"),
    Claim("checkpoint", "checkpoints reach host memory at the speed of the bus", "", "`checkpoint_s` of that run"),
    Claim("no-stall", "training waits for data less than 1% of the time", "", "`nanochat run --profile d12`"),
    Claim("to-quality", "d12 needs 0.7 of nanochat's time for its bits per byte", "", "both on one GPU, to the end"),
    Claim("overlap", "sums of gradients during the backward pass pay between nodes", "", "`benchmarks/ranks.py`"),
)


@dataclass(frozen=True)
class Verdict:
    """A row of the table."""

    sentence: str
    result: str
    seen: str


def verdicts(lines: list[dict[str, Any]]) -> list[Verdict]:
    """A row for each claim, and for each part that failed without one.

    `lines` are those of the parts (`gpu_parts.run`); of two lines of one part, the last counts. Nothing that was seen
    in a rehearsal is a PASS.
    """
    last = {line["part"]: line for line in lines}
    rows = [_verdict(claim, last.get(claim.part)) for claim in CLAIMS]
    for name, line in last.items():
        failed_claims = [claim for claim in CLAIMS if claim.part == name and claim.name not in line["checks"]]
        if line["status"] == "failed" and not failed_claims:
            rows.append(Verdict(f"the part `{name}` runs to its end", FAIL, line["sentence"]))
    return rows


def _verdict(claim: Claim, line: dict[str, Any] | None) -> Verdict:
    if not claim.part:
        return Verdict(claim.sentence, NOT_RUN, f"shown by {claim.elsewhere}")
    if line is None:
        return Verdict(claim.sentence, NOT_RUN, f"`--only {claim.part}`")
    check = line["checks"].get(claim.name)
    if check is None:
        result = FAIL if line["status"] == "failed" else NOT_RUN
        return Verdict(claim.sentence, result, line["sentence"] or "the part does not show it here")
    if check["holds"] is False:
        return Verdict(claim.sentence, FAIL, check["seen"])
    if line["rehearsal"]:
        return Verdict(claim.sentence, NOT_RUN, f"rehearsed: {check['seen']}" if check["holds"] else "rehearsed")
    if check["holds"] is None:
        return Verdict(claim.sentence, NOT_RUN, check["seen"])
    return Verdict(claim.sentence, PASS, check["seen"])


def table(rows: list[Verdict]) -> str:
    """In Markdown."""
    lines = [f"| {row.sentence} | {row.result} | {row.seen} |" for row in rows]
    return "\n".join(["| claim | result | seen |", "|---|---|---|", *lines])
