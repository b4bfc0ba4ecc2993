"""Make the certificates here anew: see README.md. Needs the ``cryptography`` package."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = pathlib.Path(__file__).resolve().parent
START, END = datetime.datetime(2000, 1, 1), datetime.datetime(2125, 1, 1)
LOCAL = ["localhost", "127.0.0.1", "::1"]


class Authority:
    """A certificate authority: its certificate and its key, which is not kept."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = named(name)
        public = self.key.public_key()
        self.certificate = (
            blank(self.name, self.name, public, START, END)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def issue(
        self,
        file: str,
        hosts: list[str],
        start: datetime.datetime = START,
        end: datetime.datetime = END,
        client: bool = False,
    ) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            blank(named(f"wsmini test {file}"), self.name, key.public_key(), start, end)
            .add_extension(authority, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(digital_signature=True), critical=True)
            .add_extension(purpose(client), critical=False)
            .add_extension(alternative_names(hosts), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        write(file, certificate, key)
        return key


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def blank(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def usage(
    digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def purpose(client: bool) -> x509.ExtendedKeyUsage:
    oid = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    return x509.ExtendedKeyUsage([oid])


def alternative_names(hosts: list[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([alternative_name(host) for host in hosts])


def alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def write(
    file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None
) -> None:
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    if key is not None:
        pem += key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    (HERE / f"{file}.pem").write_bytes(pem)


def write_encrypted(file: str, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (HERE / f"{file}.pem").write_bytes(pem)


def self_signed() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = named("wsmini test self-signed")
    certificate = (
        blank(name, name, key.public_key(), START, END)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(digital_signature=True), critical=True)
        .add_extension(purpose(client=False), critical=False)
        .add_extension(alternative_names(LOCAL), critical=False)
        .sign(key, hashes.SHA256())
    )
    write("self-signed", certificate, key)


def main() -> None:
    ca, other = Authority("wsmini test CA"), Authority("wsmini test other CA")
    write("ca", ca.certificate)
    write("other-ca", other.certificate)
    ca.issue("server", LOCAL)
    ca.issue("expired", LOCAL, end=datetime.datetime(2001, 1, 1))
    ca.issue("not-yet-valid", LOCAL, start=datetime.datetime(2124, 1, 1))
    ca.issue("wrong-host", ["wrong.example"])
    client = ca.issue("client", ["client.example"], client=True)
    write_encrypted("client-key-encrypted", client)
    other.issue("other-server", LOCAL)
    self_signed()


if __name__ == "__main__":
    main()
