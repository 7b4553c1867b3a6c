"""The S3 client of stores and of sources in S3."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
from pathlib import Path
from typing import Any

import fsspec

from nanochat import settings
from nanochat.errors import BadConfig


def open_s3() -> Any:
    """A client with its own connections, without cached listings, and with short time-outs; raises `BadConfig`."""
    for name, value in settings.aws_variables().items():
        if value != value.strip() or not value.isprintable():
            raise BadConfig(
                f"`{name}` has a space or line break at its beginning or end, or a control character.",
                hint="Set it again without; `echo -n`, or `$(cat file)`, omits the line break.",
            )
    if "@" in settings.s3_endpoint():
        raise BadConfig(
            "`AWS_ENDPOINT_URL` contains a login, which is not used.",
            hint="Give it as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.",
        )
    bundle = settings.aws_variables().get("AWS_CA_BUNDLE", "")
    if bundle and not Path(bundle).exists():
        raise BadConfig(f"`AWS_CA_BUNDLE` is `{bundle}`, which does not exist.", hint="Name a file of certificates.")
    return fsspec.filesystem(
        "s3",
        endpoint_url=settings.s3_endpoint() or None,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": 5,
            "read_timeout": 60,
            "retries": {"total_max_attempts": 3, "mode": "standard"},
            # botocore expects an IPv6 address in `NO_PROXY` in brackets, and httpx accepts none there
            **({"proxies": {}} if settings.is_loopback(settings.s3_endpoint()) else {}),
        },
    )
