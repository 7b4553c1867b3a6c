"""The address of a dataset of the Hugging Face Hub."""

import re
from urllib.parse import unquote

from nanochat.errors import BadSource

ADDRESS = re.compile(
    r"hf://(?:datasets/)?(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?"
    r"(?:/(?P<path>.+?))?/?",
    re.DOTALL,
)


def parse_hub_address(address: str) -> tuple[str, str | None, str]:
    """Repository, revision, and folder or file. Raises `BadSource` for an address of another form."""
    match = ADDRESS.fullmatch(address)
    if not match:
        raise BadSource(
            f"`{address}` is not the address of a dataset.",
            hint="It is `hf://org/name[@revision][/folder]`; write `/` in a revision as `%2F`.",
        )
    revision = match["revision"]
    return match["repo"], unquote(revision) if revision else None, match["path"] or ""
