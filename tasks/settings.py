"""Settings: the only place that reads the environment. Every field is an `ESD_…` variable.

Unset, everything is embedded: files under `home`, MLflow on SQLite, S3 by a server that commands start themselves.
Production is other values of the same fields, never other code.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from esd_core.concept_list import ApprovalPolicy
from esd_core.errors import InvalidInput
from esd_core.faults import describe_faults
from esd_core.machine import Machine

EMBEDDED = "embedded"
AWS = "aws"
TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")  # no folder of files


def _endpoint(value: Any) -> Any:
    return None if value in ("", AWS) else value


Port = Annotated[int, Field(ge=1, le=65535)]


class Encryption(StrEnum):
    """How S3 encrypts what is put there; `bucket`: as the bucket's own default says."""

    BUCKET = "bucket"
    AES256 = "AES256"
    KMS = "aws:kms"


class LockMode(StrEnum):
    GOVERNANCE = "GOVERNANCE"  # those with a special permission may delete earlier
    COMPLIANCE = "COMPLIANCE"  # nobody may


class Signing(StrEnum):
    OPTIONAL = "optional"  # signed where a key is set; unsigned releases verify, and verifying says so
    REQUIRED = "required"  # nothing is published, fetched or verified without a signature


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ESD_", frozen=True, extra="ignore")

    home: Path = Field(Path("var"), description="Folder of everything that is written: jobs, cache, embedded servers.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")

    gradient_checkpointing: bool = Field(False, description="Train in less memory, for about a third more time.")
    compile: bool = Field(False, description="torch.compile the denoiser: minutes first, faster afterwards.")
    channels_last: bool = Field(False, description="Memory layout that convolutions on GPUs prefer.")

    mlflow_tracking_uri: str = Field(
        "", validate_default=True, description="MLflow server or database; unset: SQLite in home."
    )
    mlflow_experiment: str = Field(
        "concept erasure", min_length=1, description="MLflow experiments: this, and the base model's name."
    )

    s3_endpoint_url: Annotated[str | None, BeforeValidator(_endpoint)] = Field(
        EMBEDDED, description="'embedded', 'aws', or the http(s) address of an S3 server."
    )
    s3_bucket: str = Field("esd-releases", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="Release bucket.")
    s3_region: str = Field("us-east-1", min_length=1, description="Region of the bucket.")

    s3_encryption: Encryption = Field(Encryption.BUCKET, description="bucket, AES256 or aws:kms.")
    s3_kms_key: str | None = Field(None, min_length=1, description="KMS key id or ARN, for aws:kms; unset: S3's own.")
    s3_storage_class: str | None = Field(None, pattern=r"^[A-Z_]+$", description="Such as STANDARD_IA; unset: default.")
    s3_tags: str | None = Field(None, pattern=r"^[^=&]+=[^=&]*(&[^=&]+=[^=&]*)*$", description="Tags: team=ml&tier=1.")
    s3_lock_days: int = Field(0, ge=0, le=36_500, description="Days that released objects cannot be deleted; 0: none.")
    s3_lock_mode: LockMode = Field(LockMode.GOVERNANCE, description="GOVERNANCE or COMPLIANCE.")
    s3_part_mib: int = Field(16, ge=5, le=5120, description="Files above this are sent in parts of this many MiB.")

    approval_policy: ApprovalPolicy = Field(
        ApprovalPolicy.GATES, description="What publishing demands at least: gates, manual or two-person."
    )
    signing: Signing = Field(Signing.OPTIONAL, description="Whether releases must be signed: optional or required.")
    signing_key: Path | None = Field(None, description="Private EC key (PEM) that publishing signs with.")
    signing_password: SecretStr | None = Field(None, description="Password of the signing key, if it has one.")
    signing_certificate: Path | None = Field(
        None, description="Certificate of the signing key (PEM), and after it those between it and the root."
    )
    signing_sigstore: bool = Field(False, description="Sign with Sigstore instead of a key.")
    signing_token: SecretStr | None = Field(
        None, description="OIDC token to sign with Sigstore as; unset: who CI services and clouds say this machine is."
    )
    verifying_key: Path | None = Field(None, description="Public key (PEM) that fetching and verifying check with.")
    verifying_roots: Path | None = Field(
        None, description="Instead: root certificates (PEM) that signers have theirs of."
    )
    verifying_identity: str | None = Field(
        None, min_length=1, description="Whom the signer's certificate must name; with an issuer: Sigstore's identity."
    )
    verifying_issuer: str | None = Field(
        None, pattern=r"^https://", description="Instead of key and roots: who vouches for that identity to Sigstore."
    )
    sigstore_trust: Path | None = Field(
        None, description="Trust configuration (JSON) of a Sigstore of one's own; unset: the public one."
    )

    prefect_api_url: str | None = Field(
        None, validation_alias="PREFECT_API_URL", description="Prefect server of flow runs; unset: an embedded one."
    )

    service_timeout: float = Field(5.0, gt=0, le=300, description="Seconds a server may take to answer at all.")
    start_timeout: float = Field(120.0, gt=0, le=3600, description="Seconds a local server may take to start.")
    s3_port: Port = Field(4566, description="Port of the local S3 server of `make up`.")
    mlflow_port: Port = Field(5000, description="Port of the local MLflow server of `make up`.")
    prefect_port: Port = Field(4200, description="Port of the local Prefect server of `make up`.")
    work_pool: str = Field("esd", min_length=1, description="Prefect work pool that `make up` creates and serves.")
    gpu_work_pool: str = Field("esd-gpu", min_length=1, description="Prefect work pool whose workers have the GPUs.")
    notice_webhook: SecretStr | None = Field(
        None, description="Address of a Slack-compatible webhook that is told of failures, gates and approvals."
    )
    runners: int = Field(
        0, ge=0, le=64, description="Workers of the GPU work pool that `make up` starts; 0: one for each GPU, or one."
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _database_in_home(cls, uri: str, known: ValidationInfo) -> str:
        uri = uri or f"sqlite:///{known.data.get('home', Path())}/mlflow.db"
        if uri.startswith("postgresql://"):  # name the driver that is installed: SQLAlchemy's choice has changed
            uri = uri.replace("postgresql://", "postgresql+psycopg2://", 1)
        if urlsplit(uri).scheme.partition("+")[0] not in TRACKING_SCHEMES:
            raise ValueError("must be an MLflow server (https://...) or database (sqlite:///..., postgresql://...)")
        return uri

    @field_validator("s3_endpoint_url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if url not in (None, EMBEDDED) and not (urlsplit(url).scheme in ("http", "https") and urlsplit(url).netloc):
            raise ValueError(f"must be '{EMBEDDED}', '{AWS}', or an address such as https://s3.example.com: {url!r}")
        return url.rstrip("/") if url else url

    @field_validator("s3_kms_key")
    @classmethod
    def _only_with_kms(cls, key: str | None, known: ValidationInfo) -> str | None:
        if key and known.data.get("s3_encryption") is not Encryption.KMS:
            raise ValueError(f"is used only with ESD_S3_ENCRYPTION={Encryption.KMS.value}")
        return key

    @property
    def machine(self) -> Machine:
        """How erasures are done here."""
        return Machine(self.device, self.gradient_checkpointing, self.compile, self.channels_last)

    @property
    def jobs_folder(self) -> Path:
        """One folder per job digest: score bank, checkpoints, weights, evaluation, report."""
        return self.home / "jobs"

    @property
    def banks_folder(self) -> Path:
        """Score banks, shared by all jobs that roll out the same prompts. May be deleted; they are made again."""
        return self.cache_folder / "banks"

    @property
    def cache_folder(self) -> Path:
        """What many jobs share: images and labels of the base model. May be deleted; it is made again."""
        return self.home / "cache"

    @property
    def releases_folder(self) -> Path:
        """Releases that were fetched and verified, by the digest of their manifest. May be deleted."""
        return self.cache_folder / "releases"

    @property
    def logs_folder(self) -> Path:
        """Output of the local servers."""
        return self.home / "logs"

    @property
    def s3_folder(self) -> Path:
        """Data of the embedded S3 server."""
        return self.home / "s3"

    @property
    def s3_address_file(self) -> Path:
        """Names the running embedded S3 server, for every process that works on the same home."""
        return self.home / "s3.address"

    @property
    def artifacts_folder(self) -> Path:
        """Artifacts of MLflow runs, while MLflow keeps its records in a database on this machine."""
        return self.home / "mlartifacts"

    @property
    def mlflow_is_server(self) -> bool:
        return urlsplit(self.mlflow_tracking_uri).scheme in ("http", "https")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once; raises InvalidInput naming every bad variable."""
    try:
        return Settings()
    except ValidationError as e:
        raise InvalidInput(f"settings (environment variables ESD_…): {describe_faults(e)}") from e
