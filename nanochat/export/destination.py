"""Copies an exported model to a folder, a bucket, or the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from nanochat.errors import BadConfig
from nanochat.sources.hub_errors import as_ours
from nanochat.store.artifacts import HuggingFaceModel
from nanochat.store.objects import Objects

LAST = "config.json"
"""Programs read it first; without it, they use no other file."""


def copy_to(exported: HuggingFaceModel, url: str) -> None:
    """Copies the files to `file:///…` or `s3://bucket/prefix`, and replaces files of the same names.

    An earlier `config.json` is deleted first, and the new one is written last: an interrupted copy cannot be loaded.
    Raises `BadConfig` if the address is inside the store.
    """
    target = Objects(url)
    if f"{target.root}/".startswith(f"{exported.store.objects.root}/"):
        raise BadConfig(f"`{url}` is inside the store.", hint="Name another place.")
    target.make_bucket()
    target.delete([LAST])
    names = [file.path for file in exported.manifest.files]
    for name in sorted(names, key=lambda name: name == LAST):
        target.upload(exported.path / name, name)


def push_artifact(exported: HuggingFaceModel, repository: str) -> str:
    """Uploads an exported model to the Hub; see `push`."""
    return push(exported.path, repository, [file.path for file in exported.manifest.files])


def push(folder: Path, repository: str, names: list[str]) -> str:
    """Uploads these files to a model `org/name` of the Hub in one commit; returns the commit's address.

    A missing repository is created, as a private one. The token is that of the Hub's own library: `HF_TOKEN`, or of
    `hf auth login`. Raises `BadConfig` if the Hub refuses, and `SourceUnreachable` if another attempt may help.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=names, commit_message="A model of nanochat"
        )
    except (LocalTokenNotFoundError, HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
        if isinstance(error, LocalTokenNotFoundError) or status in (400, 401, 403, 404):
            raise BadConfig(
                f"The Hub does not accept `{repository}`" + (f" (status {status})." if status else "."),
                hint="Check the name; `hf auth login` with a token that may write.",
            ) from error
        if ours := as_ours(error, repository):
            raise ours from error
        raise
    return str(commit.commit_url)
