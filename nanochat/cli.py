"""`nanochat …`: the command line. Commands import what they need, so that `--help` is quick."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nanochat import settings
from nanochat.errors import BadConfig, NanochatError, NotFound

if TYPE_CHECKING:
    from nanochat.config import Compute, PipelineConfig
    from nanochat.pipeline import Result
    from nanochat.stages.stage import Stage
    from nanochat.store.artifacts import Artifact, Manifest, Store
    from nanochat.store.runs import Run

app = App(
    name="nanochat",
    help="Raw text in, a chat model out: every step cached, resumable, and traceable to the bytes it came from.",
    version_flags=["--version"],
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

CHANGES_SHOWN = 3

ProfileName = Annotated[str, Parameter(help="A complete config: `demo`, `cpu`, `d12`, `speedrun`.")]
Changes = Annotated[
    list[str] | None,
    Parameter(
        name="--set", negative="", consume_multiple=True, help="Change one field: `pretrain.depth=6`. Repeatable."
    ),
]
ComputeChanges = Annotated[
    list[str] | None,
    Parameter(
        name="--compute",
        negative="",
        consume_multiple=True,
        help="How to run: `ranks=2`. Never changes a result's key.",
    ),
]
StoreUrl = Annotated[
    str, Parameter(name="--store", help="Root of the store: a folder, `file:///…` or `s3://bucket/prefix`.")
]
Reference = Annotated[str, Parameter(help="An alias (`chat/latest`), `stage/key` or the beginning of a key.")]


def _store(url: str) -> Store:
    from nanochat.store.artifacts import Store

    return Store(url or settings.store_url(), settings.home() / "cache")


def _configured(profile: str, changes: list[str] | None, compute: list[str] | None) -> tuple[PipelineConfig, Compute]:
    from nanochat import profiles

    chosen = profiles.profile(profile)
    return profiles.override(chosen.config, changes or []), profiles.override(chosen.compute, compute or [])


class _PlainWatch:
    """Hands a plain run's events to the screen."""

    def __init__(self, screen: Any) -> None:
        self.screen = screen

    def started(self, label: str, stage: Stage) -> Any:
        self.screen.started(label)

        def progress(done: float, total: float, unit: str, message: str = "", metrics: Any = None) -> None:
            self.screen.progress(label, done, total, unit, message)

        return progress

    def ended(self, label: str, artifact: Artifact, seconds: float) -> None:
        self.screen.ended(label, cached=artifact.reused, key=artifact.key, metrics=artifact.metrics)

    def failed(self, label: str, error: NanochatError) -> None:
        self.screen.say(f"  [red]failed  [/]{label}")


@app.command
def run(
    *,
    profile: ProfileName = "demo",
    changes: Changes = None,
    compute: ComputeChanges = None,
    store: StoreUrl = "",
    plain: Annotated[bool, Parameter(negative="", help="Without Prefect: in this process, no server.")] = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only say what would run and why; as `nanochat plan`.")
    ] = False,
) -> None:
    """Run the pipeline: what the store has is reused, the rest is computed.

    Example: `nanochat run --profile demo --set sft.epochs=2`
    """
    if dry_run:
        plan(profile=profile, changes=changes, compute=compute, store=store)
        return
    config, how = _configured(profile, changes, compute)
    if plain:
        _run_plain(config, how, store, profile)
        return
    from flows.run import run_with_prefect

    sys.exit(run_with_prefect(config, how, store or settings.store_url(), profile))


def _run_plain(config: PipelineConfig, compute: Compute, store_url: str, profile: str) -> None:
    from nanochat.console import Screen, duration
    from nanochat.pipeline import PlainRun, pipeline, publish_aliases
    from nanochat.store.runs import recording

    began = time.monotonic()
    opened = _store(store_url)
    with Screen(out) as screen, recording(opened, profile, config.canonical()) as record:
        watch = record.watching(_PlainWatch(screen))
        result = pipeline(PlainRun(opened, compute, settings.home() / "runs", watch), config)
        publish_aliases(opened, result)
    out.print(f"\n{screen.computed} computed, {screen.cached} cached, {duration(time.monotonic() - began)}.")
    say_where(result)


def say_where(result: Result) -> None:
    """What the newcomer does next."""
    out.print(f"report  {result.report.path / 'report.html'}", soft_wrap=True)
    out.print('chat    nanochat chat -p "Hello!"')


@app.command
def plan(
    *, profile: ProfileName = "demo", changes: Changes = None, compute: ComputeChanges = None, store: StoreUrl = ""
) -> None:
    """Say what would run and why, before paying for it.

    Example: `nanochat plan --set tokenizer.vocab_size=4096`
    """
    from nanochat.pipeline import Plan, pipeline
    from nanochat.scaling import plan_training

    config, _ = _configured(profile, changes, compute)
    planned = Plan(_store(store))
    pipeline(planned, config)
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "", "why"):
        table.add_column(title)
    for entry in planned.entries:
        state = "[cyan]cached[/]" if entry.artifact else "[green]would run[/]"
        table.add_row(entry.label, state, entry.artifact.key[:8] if entry.artifact else entry.why)
    out.print(table)
    training = plan_training(config.pretrain, config.tokenizer.vocab_size, config.rows.sequence_len)
    out.print(f"\npretraining: {training.describe()}")


@app.command
def profiles() -> None:
    """List the profiles."""
    from nanochat.profiles import PROFILES

    for name, known in PROFILES.items():
        out.print(f"{name:<10} {known.summary}")


@app.command
def config(profile: ProfileName = "demo", *, changes: Changes = None) -> None:
    """Print a complete config as JSON.

    Example: `nanochat config demo --set pretrain.depth=6`
    """
    out.print(_configured(profile, changes, None)[0].model_dump_json(indent=2))


@app.command
def chat(
    model: Reference = "chat/latest",
    *,
    prompt: Annotated[str, Parameter(name=["--prompt", "-p"], help="Ask this, print the answer, and leave.")] = "",
    temperature: Annotated[float, Parameter(help="0 always takes the likeliest token.")] = 0.6,
    top_k: Annotated[int, Parameter(help="Sample among so many of the likeliest tokens; 0: all.")] = 50,
    max_tokens: int = 256,
    seed: int = 42,
    store: StoreUrl = "",
) -> None:
    """Talk to a chat model in the terminal.

    Example: `nanochat chat -p "Hello!"`
    """
    from nanochat.serve.terminal import chat as talk

    opened = _store(store)
    artifact = opened.artifact(opened.resolve(model), reused=True)
    if artifact.kind != "Model":
        raise NotFound(
            f"`{model}` is a {artifact.kind}, not a model.", hint="`nanochat ls --stage sft` lists the chat models."
        )
    talk(artifact.path, prompt or None, temperature, top_k, max_tokens, seed)


@app.command
def ls(*, stage: Annotated[str, Parameter(help="Only this stage.")] = "", store: StoreUrl = "") -> None:
    """List the artifacts of the store, newest first, and the aliases.

    Example: `nanochat ls --stage pretrain`
    """
    from nanochat.console import duration, headline

    opened = _store(store)
    names: dict[str, list[str]] = {}
    for alias, target in opened.aliases().items():
        names.setdefault(target.key, []).append(alias)
    table = Table(box=None, pad_edge=False)
    for title in ("made", "stage", "key", "took", "", "aliases"):
        table.add_column(title)
    manifests = sorted(opened.manifests(stage), key=lambda manifest: manifest.producer.ended, reverse=True)
    for manifest in manifests:
        table.add_row(
            f"{manifest.producer.ended:%Y-%m-%d %H:%M}", manifest.stage, manifest.key[:8],
            duration(manifest.producer.seconds), headline(manifest.metrics), ", ".join(names.get(manifest.key, [])),
        )  # fmt: skip
    if not manifests:
        out.print(f"Nothing in {opened.objects.root} yet; `nanochat run` makes something.")
        return
    out.print(table)


@app.command
def show(reference: Reference, *, store: StoreUrl = "") -> None:
    """Show an artifact: its manifest, whole.

    Example: `nanochat show chat/latest`
    """
    out.print_json(_store(store).resolve(reference).model_dump_json())


@app.command
def lineage(
    reference: Reference,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="As JSON.")] = False,
    store: StoreUrl = "",
) -> None:
    """What an artifact was made from, down to the raw shards and their hashes.

    Example: `nanochat lineage chat/latest`
    """
    from nanochat.store import lineage as lines

    opened = _store(store)
    manifest = opened.resolve(reference)
    out.print_json(lines.as_json(opened, manifest)) if as_json else out.print("\n".join(lines.tree(opened, manifest)))


@app.command
def verify(
    reference: Annotated[str, Parameter(help="One artifact and all it was made from; empty: the whole store.")] = "",
    *,
    repair: Annotated[
        bool, Parameter(negative="", help="Take damaged artifacts out, so that the next run makes them again.")
    ] = False,
    store: StoreUrl = "",
) -> None:
    """Hash again what the store holds, and compare with the manifests.

    Example: `nanochat verify chat/latest`
    """
    from nanochat.store.lineage import ancestors

    opened = _store(store)
    manifests: list[Manifest] = list(opened.manifests())
    if reference:
        top = opened.resolve(reference)
        manifests = [top, *ancestors(opened, top)]
    damaged = 0
    with out.status("hashing") as status:
        for position, manifest in enumerate(manifests):
            status.update(f"hashing {manifest.stage} {manifest.key[:8]} ({position + 1} of {len(manifests)})")
            problems = opened.verify(manifest)
            damaged += bool(problems)
            for problem in problems:
                out.print(f"[red]damaged[/] {manifest.stage} {manifest.key[:8]}: {problem}")
            if problems and repair:
                opened.remove(manifest)
                out.print(f"        taken out: {manifest.stage} {manifest.key[:8]}")
    size = sum(entry.size for manifest in manifests for entry in manifest.files)
    out.print(f"{len(manifests) - damaged} of {len(manifests)} artifacts are whole ({size / 1e6:,.1f} MB hashed).")
    if damaged and not repair:
        _fail(
            NanochatError(
                f"{damaged} damaged.", hint="`nanochat verify --repair` takes them out; the next run makes them again."
            )
        )


@app.command
def alias(
    name: str = "",
    reference: str = "",
    *,
    remove: Annotated[str, Parameter(help="Take this alias away; what it points to stays.")] = "",
    store: StoreUrl = "",
) -> None:
    """Point an alias at an artifact, or say where it points; without a name: list them all.

    Example: `nanochat alias chat/production chat/latest`
    """
    opened = _store(store)
    if remove:
        opened.remove_alias(remove)
        out.print(f"{remove} is no alias any more.")
        return
    if not name:
        for known, target in opened.aliases().items():
            out.print(f"{known} → {target.stage}/{target.key}")
        return
    if reference:
        opened.set_alias(name, opened.resolve(reference))
    manifest = opened.resolve(name)
    out.print(f"{name} → {manifest.stage}/{manifest.key}")


@app.command
def export(reference: Reference, folder: Path, *, store: StoreUrl = "") -> None:
    """Copy an artifact's files into a folder; of a model or vocabulary also `tokenizer.json` and `tokenizer.tiktoken`.

    Example: `nanochat export chat/latest my-model`
    """
    import shutil

    from nanochat.tokenizer.bpe import Tokenizer
    from nanochat.tokenizer.formats import write_hf, write_tiktoken

    opened = _store(store)
    artifact = opened.artifact(opened.resolve(reference), reused=True)
    shutil.copytree(artifact.path, folder, dirs_exist_ok=True)
    if (folder / "vocabulary.json").exists():
        tokenizer = Tokenizer.load(folder / "vocabulary.json")
        write_hf(tokenizer, folder / "tokenizer.json")
        write_tiktoken(tokenizer, folder / "tokenizer.tiktoken")
    for path in sorted(folder.iterdir()):
        out.print(str(path))


@app.command
def runs(
    run_id: Annotated[str, Parameter(help="One run, with its stages: an id, its beginning or its end.")] = "",
    *,
    pin: Annotated[str, Parameter(help="Keep all that this run made, until it is unpinned.")] = "",
    unpin: Annotated[str, Parameter(help="Let `nanochat gc` decide again.")] = "",
    limit: Annotated[int, Parameter(help="Show so many; 0: all.")] = 20,
    store: StoreUrl = "",
) -> None:
    """List the runs, newest first, or show one.

    Example: `nanochat runs --pin a1b2c3`
    """
    from nanochat.console import duration
    from nanochat.store import runs as records

    opened = _store(store)
    if pin or unpin:
        chosen = records.find(opened, pin or unpin).record.id
        (records.pin if pin else records.unpin)(opened, chosen)
        out.print(f"{chosen} is {'pinned' if pin else 'not pinned any more'}.")
        return
    if run_id:
        _show_run(records.find(opened, run_id))
        return
    found = records.newest(opened, limit)
    if not found:
        out.print(f"No runs in {opened.objects.root} yet; `nanochat run` makes one.")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("started", "run", "", "profile", "changed", "computed", "cached", "took", "chat", ""):
        table.add_column(title)
    for each in found:
        record, states = each.record, [stage.state for stage in each.record.stages.values()]
        table.add_row(
            f"{record.started:%Y-%m-%d %H:%M}", record.id.rpartition("-")[2], _state(each), record.profile,
            _changed(record.profile, record.config, CHANGES_SHOWN),
            str(states.count("computed")), str(states.count("reused")), duration(record.seconds),
            "" if record.chatcore is None else f"{record.chatcore:.3f}", "pinned" if each.pinned else "",
        )  # fmt: skip
    out.print(table)


def _show_run(run: Run) -> None:
    from nanochat.console import duration

    record = run.record
    out.print(f"run      {record.id}{'  (pinned)' if run.pinned else ''}")
    out.print(f"state    {_state(run)}  after {duration(record.seconds)}")
    if record.error:
        out.print(f"         {escape(record.error)}")
    if record.flow_run:
        out.print(f"flow run {record.flow_run}")
    out.print(f"config   {record.profile}  {_changed(record.profile, record.config)}\n")
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "", "key", "took"):
        table.add_column(title)
    for label, stage in record.stages.items():
        table.add_row(label, stage.state, stage.key[:8], duration(stage.seconds) if stage.key else "")
    out.print(table)


def _state(run: Run) -> str:
    colour = {"completed": "green", "running": "cyan", "cancelled": "yellow"}.get(run.state, "red")
    return f"[{colour}]{run.state}[/]"


def _changed(profile: str, config: dict[str, Any], most: int = 0) -> str:
    """What differs from the profile as it is now: `sft.epochs=2`."""
    from nanochat.pipeline import flatten
    from nanochat.profiles import PROFILES

    if profile not in PROFILES:
        return ""
    usual, here = flatten(PROFILES[profile].config.canonical()), flatten(config)
    found = [f"{name}={value}" for name, value in here.items() if usual.get(name) != value]
    more = f" … {len(found) - most} more" if most and len(found) > most else ""
    return escape(" ".join(found[: most or None]) + more)


@app.command
def gc(
    *,
    keep_runs: Annotated[int, Parameter(help="What the newest so many runs made or reused stays.")] = 3,
    min_age_hours: Annotated[float, Parameter(help="What is younger stays.")] = 24.0,
    delete: Annotated[bool, Parameter(negative="", help="Do it; otherwise it is only said.")] = False,
    store: StoreUrl = "",
) -> None:
    """Say what no alias, pinned run or recent run needs, and how much room it takes; with `--delete`, delete it.

    Example: `nanochat gc --keep-runs 1 --delete`
    """
    from nanochat.store import retention

    if keep_runs < 0 or min_age_hours < 0:
        raise BadConfig("`--keep-runs` and `--min-age-hours` cannot be negative.", hint="0 keeps nothing for it.")
    opened = _store(store)
    planned = retention.plan(opened, keep_runs=keep_runs, min_age_hours=min_age_hours)
    if not planned.items:
        out.print(f"Nothing to delete; {planned.kept} artifacts stay.")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("what", "name", "MB", "why"):
        table.add_column(title, justify="right" if title == "MB" else "left")
    for item in planned.items:
        name = f"{item.name[:-56]}" if item.what == "artifact" else item.name
        table.add_row(item.what, escape(name), f"{item.bytes / 1e6:,.2f}", item.why)
    out.print(table)
    out.print(f"\n{len(planned.items)} to delete, {planned.bytes / 1e6:,.1f} MB; {planned.kept} artifacts stay.")
    if not delete:
        out.print("Nothing was deleted; `nanochat gc --delete` does it.")
        return
    done = retention.delete(opened, planned, on_wait=lambda run: out.print(f"waiting for a word of the run {run}"))
    spared = f"; {len(done.spared)} spared, they came into use or went meanwhile" if done.spared else ""
    out.print(f"Deleted {len(done.items)}, {done.bytes / 1e6:,.1f} MB{spared}.")


def _fail(error: NanochatError) -> NoReturn:
    from nanochat.console import Screen

    Screen(err).failed(error)
    sys.exit(1)


def main() -> None:
    """Runs a command; an error is one sentence and its way out, never a traceback."""
    try:
        app(exit_on_error=False, print_error=False, result_action="return_value")
    except NanochatError as error:
        _fail(error)
    except CycloptsError as error:
        err.print(f"[bold red]error:[/] {error}")
        err.print("       [yellow]`nanochat --help` lists the commands, `nanochat COMMAND --help` their options.[/]")
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("\nStopped. What was finished is kept: the same command goes on from here.")
        sys.exit(130)


if __name__ == "__main__":
    main()
