"""Converts errors of S3 and of the network into `StoreError`s: one sentence each, without credentials.

A missing object is `FileNotFoundError`, and only if the server's error code names the object: a missing bucket, or the
404 page of a proxy, is no proof.
"""

# pyright: reportMissingTypeStubs=false
import contextlib
from collections.abc import Generator
from typing import Any, cast

from botocore import exceptions as boto

from nanochat import settings
from nanochat.errors import DamagedResponse, StoreError, StoreUnreachable
from nanochat.system_errors import DISK_FULL, from_system

ABSENT = ("NoSuchKey", "NoSuchUpload")
"""Error codes for a missing object."""
NOT_SUPPORTED = (501, 505)
CHECK_SERVER = "Is there an S3 server at `AWS_ENDPOINT_URL`, without a proxy in between?"


class PreconditionFailed(StoreError):
    """The condition of a conditional write was false (HTTP 412)."""


class Conflict(StoreUnreachable):
    """Two conditional writes of one key collided (HTTP 409); neither is decided: to be tried again."""


@contextlib.contextmanager
def converted(root: str, what: str, absent: tuple[str, ...] = ABSENT) -> Generator[None]:
    """Converts the errors of a request about `what` to the store `root`.

    Raises `FileNotFoundError` if the server's error code is one of `absent`.
    """
    try:
        yield
    except (PreconditionFailed, Conflict):
        raise
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
        raise StoreError(
            f"There are no credentials for {root}.", hint="Set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`."
        ) from error
    except (boto.ConnectionError, boto.HTTPClientError, _client_error(), TimeoutError, ConnectionError) as error:
        where = _without_login(settings.s3_endpoint()) or "Amazon S3"
        raise StoreUnreachable(
            f"The store {root} did not answer at {where}.", hint="Is the server up, and `AWS_ENDPOINT_URL` right?"
        ) from error
    except boto.FlexibleChecksumError as error:
        raise DamagedResponse(f"The store {root} sent damaged bytes for `{what}`.") from error
    except (OSError, boto.ClientError) as error:
        response = error_response(error)
        if not response and isinstance(error, OSError) and (error.filename or error.errno in DISK_FULL):
            raise from_system(error, "a transfer to or from the store") from error
        raised = _from_response(root, what, response, error, absent)
        if raised is error:
            raise
        raise raised from error
    except (boto.BotoCoreError, ValueError) as error:
        raise StoreError(
            f"The store {root} cannot be used: {sentence(error)}.",
            hint="Check `--store` and the settings of AWS: `AWS_ENDPOINT_URL`, `AWS_PROFILE`, `~/.aws/config`, ….",
        ) from error


def error_response(error: BaseException) -> dict[str, Any]:
    """The server's response in botocore's error, which s3fs keeps as the cause of its own; empty if there is none."""
    for each in (error, error.__cause__):
        if isinstance(each, boto.ClientError):
            return cast("dict[str, Any]", each.response)  # pyright: ignore[reportUnknownMemberType]
    return {}


def sentence(error: BaseException) -> str:
    """The message of an error on one line, without a full stop."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(message.split()).rstrip(".")


def _from_response(
    root: str, what: str, response: dict[str, Any], error: Exception, absent: tuple[str, ...]
) -> Exception:
    """The error for a response of the server."""
    code = response.get("Error", {}).get("Code", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    refused = f"The store {root} refused `{what}`: {sentence(error)}."
    if code in absent and isinstance(error, FileNotFoundError):
        return error
    if code == "NoSuchBucket":
        bucket = root.removeprefix("s3://").partition("/")[0]
        return StoreError(
            f"There is no bucket `{bucket}`.", hint="Check `--store`; `nanochat run` creates it if it may."
        )
    if code == "RequestTimeTooSkewed":
        return StoreUnreachable(
            f"The clocks of the store {root} and this machine differ by more than it accepts.",
            hint="Set this machine's clock.",
        )
    if status == 412:
        return PreconditionFailed(f"`{what}` in the store {root} has changed.")
    if isinstance(error, FileExistsError):
        return error
    if status == 409:
        return Conflict(f"Other processes are writing `{what}` in the store {root}.")
    if status == 404:
        return StoreUnreachable(
            f"The store {root} answered 404 to `{what}`, but not that the object is missing.", hint=CHECK_SERVER
        )
    if isinstance(error, PermissionError) or status in (401, 403):
        return StoreError(refused, hint="Check the credentials and their rights.")
    if status in NOT_SUPPORTED:
        return StoreError(
            refused, hint="The server does not support this request (conditional writes, perhaps): use another one."
        )
    if 300 <= status < 500 and status not in (408, 425, 429):
        return StoreError(refused, hint="Check `--store`, `AWS_ENDPOINT_URL` and the region.")
    return StoreUnreachable(f"The store {root} failed at `{what}`: {sentence(error)}.")


def _client_error() -> type[Exception]:
    """The errors of aiohttp's connections."""
    import aiohttp  # noqa: PLC0415 - a tenth of a second, in every process that opens a store

    return aiohttp.ClientError


def _without_login(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
