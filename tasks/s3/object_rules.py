"""What is asked of S3 for every object that is written: encryption, storage class, tags, object lock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.settings import Encryption, LockMode, Settings


@dataclass(frozen=True)
class Rules:
    """lock_days: 0 is no object lock. tags: as in an address, team=ml&tier=1."""

    encryption: Encryption = Encryption.BUCKET
    kms_key: str | None = None
    storage_class: str | None = None
    tags: str | None = None
    lock_days: int = 0
    lock_mode: LockMode = LockMode.GOVERNANCE

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        return cls(
            encryption=settings.s3_encryption,
            kms_key=settings.s3_kms_key,
            storage_class=settings.s3_storage_class,
            tags=settings.s3_tags,
            lock_days=settings.s3_lock_days,
            lock_mode=settings.s3_lock_mode,
        )

    def arguments(self, *, locked: bool) -> dict[str, Any]:
        """Arguments of PutObject and CreateMultipartUpload. locked: whether this object is never replaced."""
        lock = locked and self.lock_days > 0
        wanted = {
            "ServerSideEncryption": None if self.encryption is Encryption.BUCKET else self.encryption.value,
            "SSEKMSKeyId": self.kms_key,
            "StorageClass": self.storage_class,
            "Tagging": self.tags,
            "ObjectLockMode": self.lock_mode.value if lock else None,
            "ObjectLockRetainUntilDate": datetime.now(UTC) + timedelta(days=self.lock_days) if lock else None,
        }
        return {name: value for name, value in wanted.items() if value is not None}
