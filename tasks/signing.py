"""Signatures of releases: a detached OpenSSF Model Signing signature over manifest.json, which names all else.

Signed with an elliptic-curve key, offline. manifest.sig is a Sigstore bundle, which the `model_signing` command of
that project verifies too. No key is ever kept here: settings name its file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esd_core.errors import InvalidInput, ReleaseError
from tasks.layout import MANIFEST, SIGNATURE
from tasks.settings import Settings, Signing

PUBLIC_SUFFIX = ".pub"
MOST_BYTES = 1 << 20  # of a signature


def make_key(path: Path, password: str | None = None) -> Path:
    """Make a development key: the private half at `path`, for the owner only, the public half beside it as .pub."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = path.with_name(path.name + PUBLIC_SUFFIX)
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    _write_new(path, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, form), 0o600)
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    _write_new(public, key.public_key().public_bytes(pem, info), 0o644)
    return public


def _write_new(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as e:
        raise InvalidInput(f"{path} exists: keys are not overwritten; choose another name") from e
    with os.fdopen(handle, "wb") as f:
        f.write(content)


def sign(manifest: bytes, settings: Settings) -> bytes | None:
    """The signature of a manifest; None where no key is set and none is required."""
    if settings.signing_key is None:
        if settings.signing is Signing.REQUIRED:
            raise ReleaseError("releases must be signed (ESD_SIGNING), but no key is set: set ESD_SIGNING_KEY")
        return None
    from model_signing.signing import Config

    password = settings.signing_password.get_secret_value() if settings.signing_password else None
    try:
        config = Config().use_elliptic_key_signer(private_key=settings.signing_key, password=_bytes(password))
    except (OSError, ValueError, TypeError) as e:
        raise InvalidInput(f"ESD_SIGNING_KEY: {settings.signing_key} cannot be used: {_one_line(e)}") from e
    with _alone(manifest) as folder:
        signature = folder.with_name(SIGNATURE)
        config.sign(folder, signature)
        return signature.read_bytes()


def _bytes(password: str | None) -> str | None:
    """What the library hands on to cryptography, which wants bytes; its annotation says str."""
    return password.encode() if password else None  # type: ignore[return-value]


def faults_of_signature(manifest: bytes, signature: bytes | None, key: Path | None, *, required: bool) -> list[str]:
    """What is wrong with a release's signature; without a key only whether one is there, where that is required."""
    if signature is None:
        return [f"{SIGNATURE} is missing: the release is not signed"] if required or key else []
    if key is None:
        return (
            [f"{SIGNATURE} cannot be checked without a key: add --key PUB, or set ESD_VERIFYING_KEY"]
            if required
            else []
        )
    if len(signature) > MOST_BYTES:
        return [f"{SIGNATURE} is no signature: {len(signature)} bytes"]
    return _checked(manifest, signature, key)


def _checked(manifest: bytes, signature: bytes, key: Path) -> list[str]:
    from cryptography.exceptions import InvalidSignature
    from model_signing.verifying import Config

    try:
        config = Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise InvalidInput(f"{key} is not a public EC key (PEM): {_one_line(e)}") from e
    with _alone(manifest) as folder:
        path = folder.with_name(SIGNATURE)
        path.write_bytes(signature)
        try:
            config.verify(folder, path)
        except InvalidSignature:
            return [f"{SIGNATURE} was not made with {key.name}, or {MANIFEST} was altered"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
            return [f"{SIGNATURE} does not fit {MANIFEST}: {_one_line(e)[:200]}"]
    return []


@contextmanager
def _alone(manifest: bytes) -> Iterator[Path]:
    """A folder that holds the manifest and nothing else: so much is signed, and nothing less can be."""
    with tempfile.TemporaryDirectory(prefix="esd-signing-") as folder:
        alone = Path(folder) / "release"
        alone.mkdir()
        (alone / MANIFEST).write_bytes(manifest)
        yield alone


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
