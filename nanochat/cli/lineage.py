"""Commands about the origin of artifacts: `lineage`, `diff`, `why`."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter, validators
from rich.markup import escape

from nanochat.cli.app import Reference, StoreUrl, app, open_store, out
from nanochat.errors import BadConfig, WrongKind

FORM = Group("Form", validator=validators.MutuallyExclusive())


@app.command
def lineage(
    reference: Reference,
    *,
    down: Annotated[bool, Parameter(negative="", help="Show what was made from it instead.")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="", group=FORM, help="As JSON.")] = False,
    html: Annotated[
        Path | None, Parameter(group=FORM, help="As an HTML page in this file, with a picture and all manifests.")
    ] = None,
    openlineage: Annotated[
        bool, Parameter(negative="", group=FORM, help="As OpenLineage events, one per line, oldest first.")
    ] = False,
    store: StoreUrl = "",
) -> None:
    """Show what an artifact was made from, down to the raw shards and their hashes; or what was made from it.

    Examples: `nanochat lineage chat/latest`, `nanochat lineage chat/latest --html lineage.html`
    """
    from nanochat.lineage.ancestry import as_json as lineage_json
    from nanochat.lineage.tree import tree, tree_down

    opened = open_store(store, read_only=True)
    manifest = opened.resolve(reference)
    if html:
        from nanochat.lineage.page import as_page

        text = as_page(opened, manifest, down=down)
        try:
            html.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadConfig(f"`{html}` cannot be written: {error.strerror}.", hint="Name another file.") from error
        out.print(escape(str(html)))
    elif openlineage:
        from nanochat.lineage.openlineage import events

        for event in events(opened, manifest, down=down):
            out.out(json.dumps(event), highlight=False)
    elif as_json:
        out.print_json(lineage_json(opened, manifest, down=down))
    else:
        out.print(escape("\n".join((tree_down if down else tree)(opened, manifest))))


@app.command
def diff(
    before: Reference,
    after: Reference,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="As JSON.")] = False,
    store: StoreUrl = "",
) -> None:
    """Compare two artifacts of one stage: config, data, code, machine, results.

    Where inputs differ, it shows the first difference in their lineage.

    Example: `nanochat diff chat/production chat/latest`
    """
    from nanochat.lineage.differences import key_differences, other_differences

    opened = open_store(store, read_only=True)
    old, new = opened.resolve(before), opened.resolve(after)
    if old.stage != new.stage:
        raise WrongKind(
            f"`{before}` was made by {old.stage}, `{after}` by {new.stage}: only artifacts of one stage compare."
        )
    found = {
        "key": key_differences(opened, old, new),
        "producer": [each for each in other_differences(old, new) if each.what != "metric"],
        "metrics": [each for each in other_differences(old, new) if each.what == "metric"],
    }
    if as_json:
        out.print_json(data={name: [each.as_dict() for each in some] for name, some in found.items()})
        return
    if old.key == new.key:
        out.print(f"The same artifact: {old.stage}/{old.key}")
        return
    out.print(f"{old.stage} {old.key[:8]} → {new.key[:8]}")
    for name, some in found.items():
        out.print(f"\n[bold]{name}[/]" + ("" if some else "  the same"))
        for each in some:
            out.print(f"  {escape(str(each))}")


@app.command
def why(reference: Reference, *, store: StoreUrl = "") -> None:
    """Show why an artifact was computed and not reused: how its key differs from the closest earlier artifact.

    Example: `nanochat why base/latest`
    """
    from nanochat.lineage.differences import closest_artifact, key_differences

    opened = open_store(store, read_only=True)
    manifest = opened.resolve(reference)
    made = manifest.producer
    out.print(
        f"{manifest.stage} {manifest.key[:8]} was computed {made.started:%Y-%m-%d %H:%M}"
        + escape(f" by {made.run}") * bool(made.run)
    )
    near = closest_artifact(opened, manifest, before=manifest)
    if near is None:
        out.print("because the store had no artifact of its stage.")
        return
    out.print(f"because, unlike {near.key[:8]} of {near.producer.ended:%Y-%m-%d %H:%M}:")
    for each in key_differences(opened, near, manifest):
        out.print(f"  {escape(str(each))}")
    out.print(f"All differences: nanochat diff {near.key[:8]} {manifest.key[:8]}")
