"""Signatures of versions: who published, which the store alone cannot tell.

What is signed names kind, name and digest: a signature proves nothing about another version, nor
about the same content under another name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gmem_shared.errors import InvalidRequestError, NotFoundError, UntrustedVersionError
from gmem_shared.store.canonical import to_json
from gmem_shared.store.layout import Layout
from gmem_shared.store.objects import Objects

_PURPOSE = "gmem-version"  # a key that signs other things, too, signs no version by accident
_PEM_END = b"-----END PUBLIC KEY-----"
_KEY_ID_DIGITS = 16


def key_id(key: Ed25519PublicKey) -> str:
    """Return the name of a public key: the first digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_KEY_ID_DIGITS]


def statement(layout: Layout, digest: str) -> bytes:
    """Return what is signed."""
    return to_json(
        {"digest": digest, "kind": layout.kind, "name": layout.name, "purpose": _PURPOSE}
    )


class Signer:
    """Signs what is published."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = key_id(key.public_key())

    @classmethod
    def from_file(cls, path: Path) -> Signer:
        """Read a private key (PEM); raises `InvalidRequestError`."""
        try:
            key = serialization.load_pem_private_key(_read(path), password=None)
        except (TypeError, ValueError) as error:  # TypeError: it has a password
            raise InvalidRequestError(
                f"expected an Ed25519 private key without password in {path}: {error}"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidRequestError(f"expected an Ed25519 private key in {path}, found another")
        return cls(key)

    def sign(self, layout: Layout, digest: str) -> bytes:
        """Return the signature of a version, as it is stored."""
        signature = self._key.sign(statement(layout, digest))
        return to_json({"key": self.key_id, "signature": base64.b64encode(signature).decode()})


class TrustedKeys:
    """The keys one of which must have signed a version."""

    def __init__(self, keys: list[Ed25519PublicKey]) -> None:
        self._keys = {key_id(key): key for key in keys}

    @classmethod
    def from_file(cls, path: Path) -> TrustedKeys:
        """Read public keys (PEM, one after another); raises `InvalidRequestError`."""
        blocks = [block + _PEM_END for block in _read(path).split(_PEM_END)[:-1]]
        try:
            keys = [serialization.load_pem_public_key(block) for block in blocks]
        except ValueError as error:
            raise InvalidRequestError(f"expected public keys in {path}: {error}") from error
        trusted = [key for key in keys if isinstance(key, Ed25519PublicKey)]
        if not trusted or len(trusted) < len(keys):
            raise InvalidRequestError(
                f"expected Ed25519 public keys in {path}, found {len(trusted)} and "
                f"{len(keys) - len(trusted)} others; make a pair with 'gmem store keygen'"
            )
        return cls(trusted)

    def check(self, objects: Objects, layout: Layout, digest: str, version: str) -> None:
        """Return if one of the keys signed a version; raises `UntrustedVersionError`."""
        signed = statement(layout, digest)
        if any(self._signed(objects, layout, digest, key, signed) for key in self._keys):
            return
        raise UntrustedVersionError(
            f"{version}: expected a good signature of one of the trusted keys "
            f"{sorted(self._keys)}, found none; sign it with 'gmem store sign', or roll the alias "
            "back"
        )

    def _signed(
        self, objects: Objects, layout: Layout, digest: str, key: str, signed: bytes
    ) -> bool:
        try:
            stored = json.loads(objects.read(layout.signature(digest, key)))
            self._keys[key].verify(base64.b64decode(stored["signature"]), signed)
        except (NotFoundError, InvalidSignature, ValueError, TypeError, KeyError):
            return False
        return True


def make_keys(private: Path) -> Path:
    """Make a pair of keys; the public one lies beside the private one, as ``.pub``.

    Raises:
        InvalidRequestError: A file is there already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    public = private.with_name(f"{private.name}.pub")
    try:
        private.touch(mode=0o600, exist_ok=False)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        with public.open("xb") as file:
            file.write(
                key.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
    except OSError as error:
        raise InvalidRequestError(f"expected new files for a pair of keys: {error}") from error
    return public


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"expected a readable key file: {error}") from error
