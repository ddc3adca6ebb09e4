"""boto3 as we use it: a client a process, our patience with the network, our sentences about what is wrong.

    patiently(lambda client: client.head_bucket(Bucket="b"), bucket="b", key="")

Endpoint, region and credentials come from boto3's own chain (variables, profiles, a pod's or machine's role), and
nothing of them is printed or stored.

botocore's standard mode repeats a request a few times with backoff, so a server that was never there is known in
seconds. One that has answered this process, and then fails, is waited for: a run of hours outlives a server's restart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from teddy_ray.errors import UserError, WorldError
from teddy_ray.store import traffic
from teddy_ray.store.base import MissingKeyError

T = TypeVar("T")

ATTEMPTS = 3
"""Of botocore, for one request. With the timeout below, a host that swallows packets is known in less than 10 s."""
CONNECT_SECONDS = 2
READ_SECONDS = 60
"""Without a byte of the answer."""
PATIENCE_SECONDS = 120.0
"""How long a server that has answered before may be away."""
LONGEST_WAIT_SECONDS = 15.0
CONNECTIONS = 16

MISSING = {"NoSuchKey", "404"}
TAKEN = {"PreconditionFailed", "412"}
_PASSING = {
    "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException",
    "TooManyRequests", "429",
}  # fmt: skip
_FULL = {"InsufficientStorage", "QuotaExceeded", "ServiceQuotaExceeded", "XMinioStorageFull", "507"}
_SENTENCES: tuple[tuple[set[str], type[UserError | WorldError], str], ...] = (
    (MISSING, MissingKeyError, "there is no file {address}"),
    (
        {"NoSuchBucket"},
        UserError,
        "there is no bucket {bucket} at {endpoint}: make it, or name one that is there",
    ),
    (
        {
            "AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId",
            "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException",
        },
        UserError,
        "{endpoint} does not take the AWS credentials that are set here ({code}): renew them, or choose others by"
        " AWS_PROFILE or the AWS_ variables",
    ),
    (
        {"AccessDenied", "AccountProblem", "AllAccessDisabled", "UnauthorizedAccess", "401", "403"},
        UserError,
        "no right to use {address} ({code}): the credentials need s3:ListBucket on the bucket, and s3:GetObject,"
        " s3:PutObject and s3:DeleteObject on what is in it",
    ),
    (
        {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "301"},
        UserError,
        "the bucket {bucket} is in another region ({code}): set AWS_REGION to its own",
    ),
    (
        _FULL,
        WorldError,
        "no space left for {address} ({code}): free some and run the same command again, what is finished is kept",
    ),
    (TAKEN, WorldError, "{address} was replaced while it was read: run the same command again"),
    (
        {"RequestTimeTooSkewed"},
        WorldError,
        "this machine's clock and that of {endpoint} differ too much: set it, then run the same command again",
    ),
)  # fmt: skip


@dataclass
class Connection:
    """A process's client; threads may share boto3's, but another process may not."""

    client: Any
    session: Any
    answered: bool = False


def expect_server() -> None:
    """Have this process wait for the server from its first request on: another process has just used it."""
    connection().answered = True


def patiently(attempt: Callable[[Any], T], *, bucket: str, key: str) -> T:
    """What ``attempt(client)`` gives, tried again for as long as its failure may pass.

    Raises MissingKeyError, UserError or WorldError, whose sentences name ``bucket`` and ``key``.
    """
    ours = connection()
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError  # which botocore lets through where the body of an error is cut off

    wait, until = 1.0, None
    while True:
        try:
            result = attempt(ours.client)
        except ParamValidationError:
            raise  # our bug
        except (BotoCoreError, ClientError, HTTPError, ResponseParserError) as error:
            now = time.monotonic()
            until = until or now + PATIENCE_SECONDS
            ours.answered = ours.answered or 0 < _status(error) < 500
            if not (ours.answered and _may_pass(error)) or now + wait > until:
                raise _explain(error, bucket, key, ours.client.meta.endpoint_url) from error
        else:
            ours.answered = True
            return result
        traffic.count(retries=1)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def code_of(error: Exception) -> str:
    """S3's own word for what is wrong, or the HTTP status where it gives none."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def connection() -> Connection:
    """This process's, made at the first call; raises UserError where boto3 is not set up rightly."""
    return _connect(os.getpid())


@lru_cache(maxsize=1)
def _connect(_process: int) -> Connection:
    """A client for one process. Where it talks to, only boto3 knows: variables and profiles may name an endpoint."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    own: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": CONNECTIONS,
    }
    try:
        session = boto3.Session()
        client = session.client("s3", config=Config(**own))
        if not is_amazon(client.meta.endpoint_url):
            # Others may know neither a bucket's own host name nor the checksums that botocore adds by default.
            other = {
                "s3": {"addressing_style": "path"},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
            client = session.client("s3", config=Config(**own, **other))
    except (BotoCoreError, ValueError) as error:
        raise UserError(f"S3 cannot be used as it is set up here: {_line(error)}; mend the AWS settings") from error
    return Connection(client, session)


def is_amazon(endpoint: str) -> bool:
    """Whether the endpoint is Amazon's own; raises ValueError for what is none at all."""
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError(f"the endpoint {endpoint} is not http://host:port or https://host")
    return parts.hostname.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _answer(error: Exception) -> Mapping[str, Any]:
    """What the server has said, where it has."""
    answer: Mapping[str, Any] = getattr(error, "response", {})
    return answer


def _status(error: Exception) -> int:
    """The HTTP status, or 0 where there was no answer."""
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: the network's failures and the server's own."""
    from botocore.exceptions import ConnectionError as NoConnectionError
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, (NoConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError, HTTPError)):
        return True
    return code_of(error) in _PASSING or (_status(error) >= 500 and code_of(error) not in {*_FULL, "NotImplemented"})


def _explain(error: Exception, bucket: str, key: str, endpoint: str) -> UserError | WorldError:
    """The sentence for what boto3 says. Not its own, in which some servers name the key that they refuse."""
    code, address = code_of(error), f"s3://{bucket}/{key}"
    for codes, kind, sentence in _SENTENCES:
        if code in codes:
            return kind(sentence.format(code=code, address=address, bucket=bucket, endpoint=endpoint))
    if code == "NotImplemented" or (400 <= _status(error) < 500 and code not in _PASSING):
        return UserError(f"{endpoint} refuses what is asked of {address} ({code}): is it an S3 server?")
    return _explain_failure(error, address, endpoint)


def _explain_failure(error: Exception, address: str, endpoint: str) -> UserError | WorldError:
    """The sentence where there is no answer, or none that helps."""
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError):
        return UserError(
            f"no AWS credentials for {address}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
        return WorldError(f"{endpoint} cannot be reached ({_reason(error)}): is it the right endpoint, and running?")
    if _status(error) or _may_pass(error):
        why = code_of(error) or type(error).__name__
        return WorldError(
            f"{address} failed ({why}), and again when repeated: run the same command again, what is finished is kept"
        )
    return UserError(f"S3 cannot be used as it is set up here: {_line(error)}; mend the AWS settings")


def _reason(error: BaseException) -> str:
    """Why there is no connection, from the operating system's own words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
