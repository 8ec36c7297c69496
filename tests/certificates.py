"""A certificate authority for tests: a root, an authority under it, and signers' certificates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """A CA with a key of its own, under `parent` or under nobody. folder: where its files and its signers' go."""

    def __init__(self, folder: Path, name: str, parent: Authority | None = None) -> None:
        self.folder, self.name, self.parent = folder, name, parent
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (parent or self).certify(name, self.key, authority=True)
        self.pem = folder / f"{name}.crt"
        self.pem.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def certify(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        email: str | None = None,
        days: tuple[int, int] = (-1, 30),
        signs: bool = True,
    ) -> x509.Certificate:
        """days: when it begins and ends, counted from today. signs: it may be used for signatures."""
        today = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today + timedelta(days=-365 if authority else days[0]))
            .not_valid_after(today + timedelta(days=365 if authority else days[1]))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(_usage(signs=signs and not authority, certifies=authority), critical=True)
        )
        if email:
            names = x509.SubjectAlternativeName([x509.RFC822Name(email)])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def signer(
        self, name: str, *, email: str | None = None, days: tuple[int, int] = (-1, 30), signs: bool = True
    ) -> tuple[Path, Path]:
        """A key, and its certificate followed by those up to the root, as two PEM files."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certify(name, key, email=email, days=days, signs=signs)
        files = self.folder / f"{name}.pem", self.folder / f"{name}.crt"
        files[0].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        files[1].write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in (certificate, *self._chain())))
        return files

    def _chain(self) -> list[x509.Certificate]:
        return [self.certificate, *self.parent._chain()] if self.parent else []


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=certifies,
        content_commitment=False,
        key_encipherment=not (signs or certifies),
        data_encipherment=False,
        key_agreement=False,
        crl_sign=certifies,
        encipher_only=False,
        decipher_only=False,
    )
