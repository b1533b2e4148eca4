"""Connections on which either side proves its chain key: TLS 1.3 with certificates that chain keys vouch for.

TLS wants a key of another curve than the chain's, so that each side has two. Its certificate signs itself, and carries in an
extension of its own the chain key's signature of the certificate's public key (EIP-712, `Certificate(bytes32 publicKey)`). The
handshake proves that the other side holds the TLS key, the extension that the holder of the chain key chose that TLS key. Names
and authorities play no part.

A node accepts the connections of one Nexus, whose certificate it is given as a file. The Nexus meets a node without trust,
reads the chain address from the certificate it shows, and from then on accepts that very certificate only.
"""

import asyncio
import os
import ssl
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lattice_core.chain.keys import Key, recover
from lattice_core.chain.typed_data import digest, domain
from lattice_live.node.identity import IdentityError

CERTIFICATE = "Certificate(bytes32 publicKey)"
VOUCHER = x509.ObjectIdentifier("2.25.132512916728275575650994046179946324832")
"""The extension that holds the chain key's signature, 65 bytes; its identifier is of the kind that needs no registration."""

VALID_DAYS = 3650

_NO_CHAIN = domain(0, bytes(20))
"""A certificate is made before its owner joins any network, and no contract reads it."""


def open_certificate(key: Key, file: Path) -> Path:
    """`file`, which holds a certificate of `key`'s with its TLS key, for the owner only; made if there is none.

    The certificate alone, which others may have, lies beside it: see `public`. Raises IdentityError.
    """
    try:
        if not file.exists():
            _make(key, file)
        if file.stat().st_mode & 0o077:
            raise IdentityError(f"{file}: must be readable by its owner only (mode 600)")
    except OSError as error:
        raise IdentityError(f"{file}: {error.strerror}") from None
    if (found := owner(read(file))) != key.address:
        raise IdentityError(f"{file}: must hold a certificate of 0x{key.address.hex()}, not of 0x{found.hex()}")
    return file


def public(file: Path) -> Path:
    """Where the certificate without its key lies."""
    return file.with_suffix(".crt")


def read(file: Path) -> bytes:
    """The certificate in a PEM file, as DER. Raises IdentityError."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(Encoding.DER)
    except OSError as error:
        raise IdentityError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise IdentityError(f"{file}: must hold a certificate in PEM") from None


def owner(certificate: bytes) -> bytes:
    """The chain address that vouches for a certificate (DER). Raises IdentityError if none does."""
    try:
        found = x509.load_der_x509_certificate(certificate)
        extension = found.extensions.get_extension_for_oid(VOUCHER).value
        assert isinstance(extension, x509.UnrecognizedExtension)
        return recover(_voucher_digest(found.public_key()), extension.value)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise IdentityError(f"a certificate that no chain key vouches for: {error}") from None


def node_context(file: Path, nexus: bytes) -> ssl.SSLContext:
    """A node's side: show the certificate in `file`, let only the holder of the certificate `nexus` (DER) in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(file)
    _trust_only(context, nexus)
    return context


def nexus_context(file: Path, node: bytes | None = None) -> ssl.SSLContext:
    """The Nexus's side: show the certificate in `file`, talk only to the holder of the certificate `node`; None: to anyone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(file)
    if node is not None:
        _trust_only(context, node)
    return context


async def meet(host: str, port: int, file: Path) -> bytes:
    """The certificate (DER) of whoever answers there. Raises OSError (`ssl.SSLError` is one)."""
    _, writer = await asyncio.open_connection(host, port, ssl=nexus_context(file))
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    assert isinstance(certificate, bytes)  # TLS servers have one
    return certificate


def _trust_only(context: ssl.SSLContext, certificate: bytes) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=certificate)


def _make(key: Key, file: Path) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"0x{key.address.hex()}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.UnrecognizedExtension(VOUCHER, key.sign(_voucher_digest(secret.public_key()))), critical=False)
        .sign(secret, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    public(file).write_bytes(certificate)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate)


def _voucher_digest(key: PublicKeyTypes) -> bytes:
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return digest(_NO_CHAIN, CERTIFICATE, [sha256(spki).digest()])
