"""`nanochat bench`: measures how fast this machine generates with a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from nanochat.cli.app import Reference, StoreUrl, app, between, err, imports_without_gc, open_model, open_store, out

if TYPE_CHECKING:
    from nanochat.inference.bench import Report

BATCHES = (1, 8, 32, 128)


@app.command
def bench(
    model: Reference = "chat/latest",
    *,
    batch: Annotated[
        list[int] | None,
        between(1, 1024),
        Parameter(negative="", consume_multiple=True, help="Requests at once; default: 1, 8, 32 and 128."),
    ] = None,
    prompt_tokens: Annotated[
        int, between(0, 1 << 20), Parameter(help="Length of prompts; 0: 128, or half of a shorter context.")
    ] = 0,
    answer_tokens: Annotated[int, between(0, 1 << 20), Parameter(help="Length of answers; 0: likewise.")] = 0,
    weights: Annotated[Literal["fp32", "bf16", "int8"], Parameter(help="Format of the weights.")] = "fp32",
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="As JSON.")] = False,
    store: StoreUrl = "",
) -> None:
    """Measure latency, throughput, and the use of memory bandwidth and arithmetic, with random prompts.

    Prompts are measured cold, then warm: in the prefix cache. Requests of a batch arrive together; ragged ones have
    prompts from an eighth of the full length, and answers from a sixteenth.

    Example: `nanochat bench --batch 1 --batch 32 --weights int8`
    """
    artifact = open_model(open_store(store, read_only=True), model)
    with imports_without_gc():
        from nanochat.inference.bench import bench as run

    with err.status("loading") as status:
        report = run(
            artifact.path, batch or BATCHES, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, weights=weights,
            progress=status.update,
        )  # fmt: skip
    if as_json:
        out.print_json(data={"model": f"{artifact.stage}/{artifact.key}", **asdict(report)})
        return
    out.print(_table(report))
    out.print(
        f"{report.device}, {report.threads} threads, {report.weights} weights, of which a step reads "
        f"{report.step_bytes / 1e6:,.1f} MB. Shares are of {report.peak_bytes_per_s / 1e9:.1f} GB/s and "
        f"{report.peak_flops_per_s / 1e9:,.0f} GFLOP/s, which this machine reached with a sum and a matrix product."
    )


def _table(report: Report) -> Table:
    table = Table(
        "batch", "lengths", "prefix", "first token", "between tokens", "p95", "tokens/s", "decode tokens/s",
        "read GB/s", "GFLOP/s", "memory", box=None, pad_edge=False,
    )  # fmt: skip
    for each in report.measured:
        read, computed = each.decode_bytes_per_s, each.flops_per_s
        prefix = f"warm, {each.cached_prompt_tokens / each.prompt_tokens:.0%}" if each.warm else "cold"
        table.add_row(
            str(each.batch), "ragged" if each.ragged else "uniform", prefix,
            f"{each.first_token_s * 1e3:,.1f} ms", f"{each.between_tokens_s * 1e3:,.2f} ms",
            f"{each.between_tokens_p95_s * 1e3:,.2f} ms", f"{each.tokens_per_s:,.0f}",
            f"{each.decode_tokens_per_s:,.0f}", f"{read / 1e9:.2f} ({read / report.peak_bytes_per_s:.0%})",
            f"{computed / 1e9:.1f} ({computed / report.peak_flops_per_s:.0%})" if computed else "–",
            f"{each.peak_memory_bytes / 1e6:,.0f} MB",
        )  # fmt: skip
    return table
