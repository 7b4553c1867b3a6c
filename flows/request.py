"""Parameters of a flow run: merges the values of its form with those of a profile, and validates them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from prefect.runtime import flow_run

from flows.tasks import open_store
from nanochat import settings
from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.config.overrides import merge, parse
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import BadConfig, NanochatError
from nanochat.profiles import PROFILES
from nanochat.profiles import profile as profile_named
from nanochat.store.store import Store

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class RunRequest:
    """The validated parameters that all flows share."""

    profile: str
    config: PipelineConfig
    compute: Compute
    store: Store
    gpu_pool: str


def parse_request(profile: str, config: Any, compute: Any, store: str, gpu_pool: str = "") -> RunRequest:
    """Validates the parameters of a flow; raises `NotFound` or `BadConfig`, naming the field."""
    return RunRequest(
        profile,
        _config(profile, config),
        _compute(profile, compute),
        open_store(_address(store) or settings.store_url()),
        gpu_pool,
    )


def title() -> str:
    """`d4 · world`: depth and source, for the name of the current flow run."""
    given: dict[str, Any] = flow_run.parameters or {}
    try:
        config = _config(given.get("profile", "demo"), given.get("config"))
    except NanochatError:  # the flow fails with this error
        return "invalid"
    source = PurePosixPath(config.data.source.rstrip("/")).name
    return f"d{config.pretrain.model.depth} · {source}"


def _config(profile: str, config: Any) -> PipelineConfig:
    return _over(profile_named(profile).config, config, [each.config for each in PROFILES.values()])


def _compute(profile: str, compute: Any) -> Compute:
    return _over(profile_named(profile).compute, compute, [each.compute for each in PROFILES.values()])


def _over(named: C, given: Any, profiles: Sequence[C]) -> C:
    """The values of a form, completed with those of the profile that it names, at every depth.

    A list is replaced as a whole. Forms are filled with one profile's values: if none of them is changed and another
    profile is chosen, the values of the chosen one are used. Raises `BadConfig`, naming the field.
    """
    if given is None:
        return named
    if isinstance(given, type(named)):
        return given
    if not isinstance(given, Mapping):
        return parse(type(named), given)
    values = named.model_dump(mode="json")
    changes = named.with_current_names(given)
    merged = merge(values, changes)
    config = parse(type(named), merged)
    complete = merged == merge({}, changes)
    return named if complete and any(config == each for each in profiles) else config


def _address(store: str) -> str:
    """Raises `BadConfig` for a relative folder: it would depend on the working directory of the worker."""
    if settings.is_relative_store(store):
        raise BadConfig(f"`store` is `{store}`, which depends on the folder of the worker.", hint="Write `file:///…`.")
    return store
