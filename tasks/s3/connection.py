"""The connection to S3: which server, how long it may take, what is signed.

Credentials come from the default AWS chain. Only the embedded server, which checks none, is given made-up ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from esd_core.errors import ServiceUnavailable
from tasks.settings import EMBEDDED, Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECTIONS = 16  # at most, for parts and for the entries of the approval log


def server_address(settings: Settings) -> str | None:
    """Address of the S3 server; None is AWS itself. The embedded one is found through the home it serves."""
    if settings.s3_endpoint_url != EMBEDDED:
        return settings.s3_endpoint_url
    try:
        return settings.s3_address_file.read_text(encoding="utf-8").strip()
    except OSError as e:
        raise ServiceUnavailable(
            f"the embedded S3 server of {settings.home} is not running: start it with `make up`, "
            "or set ESD_S3_ENDPOINT_URL to a server of your own"
        ) from e


@lru_cache(maxsize=8)
def connect(address: str | None, region: str, embedded: bool, timeout: float) -> S3Client:
    import boto3
    import botocore.session
    from botocore.config import Config

    config = Config(
        connect_timeout=timeout,
        read_timeout=max(60.0, timeout),
        retries={"total_max_attempts": 3, "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": "path"} if address else None,
        proxies={} if embedded else None,  # a proxy cannot reach this machine's loopback address
    )
    made_up = EMBEDDED if embedded else None  # None: the default chain
    session = botocore.session.get_session()
    # times stay text: nobody reads them, and reading them takes most of the time of a long listing
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=lambda told: told)
    client: S3Client = boto3.session.Session(botocore_session=session).client(
        "s3",
        endpoint_url=address,
        region_name=region,
        aws_access_key_id=made_up,
        aws_secret_access_key=made_up,
        config=config,
    )
    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-sign.s3.{operation}", _sign_the_checksum_only)
    return client


def _sign_the_checksum_only(request: Any, **_: Any) -> None:
    """What is sent names its SHA-256 in a signed header, so its bytes are not hashed again to be signed.

    Over https botocore leaves it so by itself.
    """
    from botocore.config import Config

    context = request.context
    context["client_config"] = context["client_config"].merge(Config(s3={"payload_signing_enabled": False}))
