"""Who signs Content Credentials: a certificate that the user names, or the home's own.

KONTEXT_C2PA_CERT and KONTEXT_C2PA_KEY name PEM files: a certificate chain, own certificate first,
and its key. Without them this home signs with a certificate of its own, which is on no trust list:
it shows that the picture was not changed since, not who made it. KONTEXT_C2PA=off signs nothing.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext.errors import KontextError

CHANGES_RESULTS = False  # signs what users edit; no stage does

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

SWITCH, CERT, KEY = "KONTEXT_C2PA", "KONTEXT_C2PA_CERT", "KONTEXT_C2PA_KEY"
OWN_FILE = "c2pa.pem"  # in the home: key and chain in one file, so that they cannot part
_OWN_DAYS = 3650
_OWN_NAME, _AUTHORITY = "kontext edits of one home", "kontext one-time authority"


@dataclass(frozen=True)
class Signer:
    """Who signs: PEM of the chain, own certificate first, and of the key (PKCS 8)."""

    chain: str
    key: str = field(repr=False)
    algorithm: str  # C2PA's name, e.g. es256
    name: str  # of the certificate's subject
    own: bool  # made by this home


def why_unsigned() -> str:
    """Why edits are not signed on this machine; empty where they are."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return f"{SWITCH}=off"
    if importlib.util.find_spec("c2pa") is None:
        return "c2pa-python is not installed: pip install 'kontext[c2pa]'"
    return ""


def find_signer(home: Path) -> Signer | None:
    """The signer that the environment names, or this home's own; None where nothing is signed.

    Raises:
        KontextError: a certificate or key that is asked for and cannot be used.
    """
    cert, key = os.environ.get(CERT, ""), os.environ.get(KEY, "")
    why_not = why_unsigned()
    if why_not:
        if cert and SWITCH not in why_not:
            raise KontextError(f"{CERT} is set, but {why_not}")
        return None
    if not cert and not key:
        return _own_signer(home)
    if not cert or not key:
        raise KontextError(f"{CERT} and {KEY} go together; {CERT if key else KEY} is not set")
    return _signer(_read(Path(cert)), _read(Path(key)), own=False)


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise KontextError(f"cannot read {path}: {error.strerror}") from error


def _signer(chain: bytes, key: bytes, own: bool) -> Signer:
    """Check that chain and key fit together, and are valid now."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as pem

    try:
        certificates = x509.load_pem_x509_certificates(chain)
        private = pem.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KontextError(f"the C2PA certificate or key is not usable PEM: {error}") from error
    first = certificates[0]
    form = (pem.Encoding.DER, pem.PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        raise KontextError("the C2PA key is not that of the chain's first certificate")
    now = dt.datetime.now(dt.UTC)
    if not first.not_valid_before_utc <= now < first.not_valid_after_utc:
        raise KontextError("the C2PA certificate has expired, or is not valid yet")
    plain = private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    text = "".join(c.public_bytes(pem.Encoding.PEM).decode() for c in certificates)
    name = first.subject.rfc4514_string()
    return Signer(text, plain.decode(), _algorithm(private), name, own)


def _algorithm(key: Any) -> str:
    """C2PA's name of the signature that a key makes."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise KontextError("C2PA signs with keys on P-256, P-384 or P-521, Ed25519 or RSA")


def _own_signer(home: Path) -> Signer:
    """This home's own, made at the first signed edit."""
    path = home / OWN_FILE
    if not path.is_file():
        made = own_pem(dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
        try:
            home.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=home, prefix=".c2pa-")  # for its owner's eyes only
            with os.fdopen(handle, "wb") as file:
                file.write(made)
            Path(name).replace(path)
        except OSError as error:
            raise KontextError(f"cannot write {path}: {error.strerror}") from error
    data = _read(path)
    return _signer(data, data, own=True)


def own_pem(start: dt.datetime) -> bytes:
    """A fresh key, its certificate, and that of the authority that signed it and was thrown away.

    C2PA's certificate profile refuses an end certificate that is signed by itself.
    """
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    top, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    chain = (_issue(key, top, start), _issue(top, top, start))
    return private + b"".join(c.public_bytes(pem.Encoding.PEM) for c in chain)


def _issue(
    key: EllipticCurvePrivateKey, top: EllipticCurvePrivateKey, start: dt.datetime
) -> Certificate:
    """A certificate for `key` from `top`: as C2PA's profile wants it, or `top`'s own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        parts = ((NameOID.ORGANIZATION_NAME, "kontext"), (NameOID.COMMON_NAME, text))
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])

    leaf = key is not top
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    unused = dict.fromkeys((*others, "crl_sign", "encipher_only", "decipher_only"), False)
    usage = x509.KeyUsage(digital_signature=leaf, key_cert_sign=not leaf, **unused)
    subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(top.public_key())
    made = (
        x509.CertificateBuilder(name(_AUTHORITY), name(_OWN_NAME if leaf else _AUTHORITY))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=_OWN_DAYS))
        .add_extension(x509.BasicConstraints(not leaf, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(subject, critical=False)
        .add_extension(issuer, critical=False)
    )
    if leaf:
        kinds = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        made = made.add_extension(kinds, critical=False)
    return made.sign(top, hashes.SHA256())
