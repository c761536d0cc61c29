"""Keys and certificates of a cluster of the tests' own: one authority, and everybody known by a certificate of it."""

import base64
import ipaddress
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

A_DAY = timedelta(days=1)
CLOCKS_DIFFER = timedelta(minutes=10)


class Authority:
    """Makes certificates in a folder: `NAME.crt` and `NAME.key`; its own is `ca.crt`."""

    def __init__(self, folder: Path) -> None:
        """Make the authority's own certificate."""
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("launchbay-test", ())
        certificate = _builder(self._name, self._name, self._key.public_key())
        certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._write("ca", certificate, None)

    def make(self, file: str, name: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> None:
        """Make a certificate for a user of some groups, or for a server at some hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _builder(_name(name, groups), self._name, key.public_key())
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = certificate.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_host(each) for each in hosts])
            certificate = certificate.add_extension(names, critical=False)
        self._write(file, certificate, key)

    def make_key_pair(self, file: str) -> None:
        """Make keys without a certificate: `NAME.key` and `NAME.pub`."""
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / f"{file}.key").write_bytes(_private(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.folder / f"{file}.pub").write_bytes(public)

    def kubeconfig(self, path: Path, url: str, file: str) -> None:
        """Write a configuration of a client that has a certificate, complete in itself."""
        user = {
            "client-certificate-data": self._base64(f"{file}.crt"),
            "client-key-data": self._base64(f"{file}.key"),
        }
        cluster = {"server": url, "certificate-authority-data": self._base64("ca.crt")}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "launchbay-test", "cluster": cluster}],
            "users": [{"name": file, "user": user}],
            "contexts": [{"name": "launchbay-test", "context": {"cluster": "launchbay-test", "user": file}}],
            "current-context": "launchbay-test",
        }
        path.write_text(json.dumps(content, indent=2))
        path.chmod(0o600)

    def _base64(self, name: str) -> str:
        return base64.b64encode((self.folder / name).read_bytes()).decode()

    def _write(self, file: str, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey | None) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        (self.folder / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        if key:
            (self.folder / f"{file}.key").write_bytes(_private(key))


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(name: str, groups: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=name,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - CLOCKS_DIFFER,
        not_valid_after=now + A_DAY,
    )
