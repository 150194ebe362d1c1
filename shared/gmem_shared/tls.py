"""TLS: the files of the settings as our servers and clients take them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from gmem_shared.errors import InvalidRequestError
from gmem_shared.settings import SecuritySettings


def uvicorn_options(security: SecuritySettings) -> dict[str, Any]:
    """Return the options by which uvicorn serves HTTPS; none without a certificate.

    Raises:
        InvalidRequestError: Certificate and key do not belong together, or are none.
    """
    pair = _pair(security)
    return {} if pair is None else dict(zip(("ssl_certfile", "ssl_keyfile"), pair, strict=True))


def server_credentials(security: SecuritySettings) -> grpc.ServerCredentials | None:
    """Return what a gRPC server shows, and asks its clients for; `None`: it speaks no TLS.

    Raises:
        InvalidRequestError: As in `uvicorn_options`.
    """
    pair = _pair(security)
    if pair is None:
        return None
    certificate, key = map(_read, pair)
    authorities = security.tls_client_ca_file
    return grpc.ssl_server_credentials(
        [(key, certificate)],
        root_certificates=None if authorities is None else _read(authorities),
        require_client_auth=authorities is not None,
    )


def channel_credentials(security: SecuritySettings) -> grpc.ChannelCredentials | None:
    """Return how a gRPC client knows its server; `None`: it speaks no TLS.

    Raises:
        InvalidRequestError: As in `uvicorn_options`.
    """
    if security.tls_ca_file is None:
        return None
    authorities, pair = _read(security.tls_ca_file), _pair(security)
    if pair is None:
        return grpc.ssl_channel_credentials(authorities)
    certificate, key = map(_read, pair)
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def own_name(security: SecuritySettings) -> str | None:
    """Return a host name that our certificate is for, by which a process can ask itself.

    Raises:
        InvalidRequestError: The certificate cannot be read.
    """
    if security.tls_cert_file is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(_read(security.tls_cert_file))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except ValueError as error:
        raise InvalidRequestError(
            f"expected a PEM certificate in {security.tls_cert_file}: {error}"
        ) from error
    return next(iter(names.get_values_for_type(x509.DNSName)), None)


def _pair(security: SecuritySettings) -> tuple[Path, Path] | None:
    certificate, key = security.tls_cert_file, security.tls_key_file
    if certificate is None or key is None:
        return None
    try:  # gRPC would only say so to every client
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise InvalidRequestError(
            f"expected a certificate and its private key, without password, in {certificate} and "
            f"{key}: {error}"
        ) from error
    return certificate, key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"expected a readable PEM file: {error}") from error
