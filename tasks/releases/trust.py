"""Whose signature of a release counts, and whether one is theirs.

The owner of a public key, whoever has a certificate under root certificates, or an identity that Sigstore knows. The
library judges certificates by the day on which they begin: releases outlive them.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esd_core.errors import InvalidInput, ServiceUnavailable
from tasks.releases.layout import MANIFEST, SIGNATURE
from tasks.releases.signing import alone, one_line
from tasks.settings import get_settings

if TYPE_CHECKING:
    from model_signing.verifying import Config

MOST_BYTES = 1 << 20  # of a signature


@dataclass(frozen=True)
class Trust:
    """Who must have signed. key, roots: PEM files. identity: whom a certificate under `roots` must name, or who must
    have signed with Sigstore, where `issuer` vouched for them. sigstore: trust configuration; None: the public one.
    """

    key: Path | None = None
    roots: Path | None = None
    identity: str | None = None
    issuer: str | None = None
    sigstore: Path | None = None

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.key, self.roots, self.issuer)) > 1:
            raise InvalidInput("a public key, root certificates and an issuer exclude each other: give one of them")
        if self.identity and not (self.roots or self.issuer):
            raise InvalidInput("an identity counts under root certificates, or with an issuer (Sigstore): give either")
        if self.issuer and not self.identity:
            raise InvalidInput("an issuer vouches for many: give the identity that must have signed, too")
        missing = [file for file in (self.key, self.roots, self.sigstore) if file and not file.is_file()]
        if missing:
            raise InvalidInput(f"{missing[0]} is no file: give whom to trust as a file that is there")

    @classmethod
    def of_settings(cls) -> Trust:
        s = get_settings()
        return cls(s.verifying_key, s.verifying_roots, s.verifying_identity, s.verifying_issuer, s.sigstore_trust)

    @property
    def anybody(self) -> bool:
        """Whether nobody is named, so that no signature can be checked."""
        return not (self.key or self.roots or self.issuer)

    @property
    def name(self) -> str:
        """Who it is: a file's name, or the identity that Sigstore knows."""
        file = self.key or self.roots
        return file.name if file else str(self.identity)


def faults_of_signature(manifest: bytes, signature: bytes | None, trust: Trust, *, required: bool) -> list[str]:
    """What is wrong with a release's signature; where nobody is named, only whether one is there, if that is required.

    Raises InvalidInput when a key, certificate or configuration cannot be used, ServiceUnavailable when Sigstore's is
    not to be had.
    """
    if signature is None:
        return [f"{SIGNATURE} is missing: the release is not signed"] if required or not trust.anybody else []
    if trust.anybody:
        told = f"{SIGNATURE} cannot be checked without a key: add --key PUB, or set ESD_VERIFYING_KEY"
        return [told] if required else []
    if len(signature) > MOST_BYTES:
        return [f"{SIGNATURE} is no signature: more than {MOST_BYTES} bytes"]
    other = _faults_of_kind(signature, trust)
    return other or _checked(manifest, signature, trust) or _faults_of_identity(signature, trust)


def _faults_of_kind(signature: bytes, trust: Trust) -> list[str]:
    """Whether a signature is of the kind that was asked for; what is no signature at all is left to the library."""
    try:
        material = json.loads(signature)["verificationMaterial"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
    kinds = {"publicKey": "a key", "x509CertificateChain": "a certificate", "certificate": "Sigstore"}
    wanted = "a key" if trust.key else "a certificate" if trust.roots else "Sigstore"
    made = [kind for name, kind in kinds.items() if isinstance(material, dict) and name in material]
    return [f"{SIGNATURE} was made with {made[0]}, not with {wanted}"] if made and made != [wanted] else []


def _checked(manifest: bytes, signature: bytes, trust: Trust) -> list[str]:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.x509 import InvalidVersion
    from OpenSSL import crypto
    from sigstore.errors import VerificationError
    from sigstore.models import InvalidBundle

    config = _config(trust)
    with alone(manifest) as folder:
        path = folder.with_name(SIGNATURE)
        path.write_bytes(signature)
        try:
            config.verify(folder, path)
        except InvalidSignature:
            return [f"{SIGNATURE} was not made with {trust.name}, or {MANIFEST} was altered"]
        except crypto.X509StoreContextError as e:
            return [f"{SIGNATURE} was made with a certificate that is not good under {trust.name}: {one_line(e)[:200]}"]
        except (crypto.Error, InvalidVersion, UnsupportedAlgorithm):
            return [f"{SIGNATURE} carries a certificate that is damaged"]
        except (VerificationError, InvalidBundle) as e:
            return [f"{SIGNATURE} is not one of {trust.name}: {one_line(e)[:200]}"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
            return [_told(one_line(e), trust)]
    return []


def _told(said: str, trust: Trust) -> str:
    """What the library says, as one sentence that names no bytes."""
    if "Hash mismatch" in said:
        return f"{MANIFEST} is not the one that was signed"
    if "Key mismatch" in said:
        return f"{SIGNATURE} was made with another key than {trust.name}"
    return f"{SIGNATURE} is no signature by {trust.name}: {said[:200]}"


def _config(trust: Trust) -> Config:
    from model_signing.verifying import Config
    from sigstore.errors import Error

    try:
        if trust.key:
            return Config().use_elliptic_key_verifier(public_key=trust.key)
        if trust.roots:
            return Config().use_certificate_verifier(certificate_chain=[trust.roots])
        assert trust.identity
        assert trust.issuer
        return Config().use_sigstore_verifier(
            identity=trust.identity, oidc_issuer=trust.issuer, trust_config=trust.sigstore
        )
    except (OSError, ValueError, TypeError, AttributeError) as e:
        kind = "a public EC key" if trust.key else "root certificates" if trust.roots else "a trust configuration"
        raise InvalidInput(f"{trust.key or trust.roots or trust.sigstore} is not {kind} (PEM): {one_line(e)}") from e
    except Error as e:
        raise ServiceUnavailable(
            f"Sigstore is not to be reached: {one_line(e)}; try again with a network, or set ESD_SIGSTORE_TRUST"
        ) from e


def _faults_of_identity(signature: bytes, trust: Trust) -> list[str]:
    """Whether the certificate of a signature that is good names whom it must; Sigstore's check does that itself."""
    if not (trust.roots and trust.identity):
        return []
    named = names_in_certificate(signature)
    if trust.identity in named:
        return []
    return [f"{SIGNATURE} was made by {', '.join(named) or 'nobody that is named'}, not by {trust.identity}"]


def names_in_certificate(signature: bytes) -> list[str]:
    """Common name, e-mail addresses, URIs and hosts that the signing certificate of a checked signature names."""
    from cryptography import x509

    chain = json.loads(signature)["verificationMaterial"]["x509CertificateChain"]["certificates"]
    certificate = x509.load_der_x509_certificate(base64.b64decode(chain[0]["rawBytes"]))
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return names
    for kind in (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName):
        names += others.get_values_for_type(kind)
    return names
