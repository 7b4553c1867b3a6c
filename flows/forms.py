"""A step of `prefect deploy`: fills the form of a deployment with a profile's values, so that users can change them."""

from typing import Any

from nanochat.profiles import profile as profile_named


def fill(profile: str) -> dict[str, Any]:
    """`config` and `compute` of a profile; `prefect.yaml` passes them to a deployment's parameters."""
    named = profile_named(profile)
    return {"config": named.config.model_dump(mode="json"), "compute": named.compute.model_dump(mode="json")}
