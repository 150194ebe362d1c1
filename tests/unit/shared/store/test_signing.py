"""Signed versions: what a reader with trusted keys opens, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from gmem_shared.errors import InvalidRequestError, UntrustedVersionError
from gmem_shared.settings import StoreSettings
from gmem_shared.store import Repository, Retention, Store, Version
from gmem_shared.store.backends import connect
from gmem_shared.store.layout import Layout
from gmem_shared.store.objects import Objects
from gmem_shared.store.signing import Signer, TrustedKeys, make_keys
from gmem_shared.store.store import utc_now
from tests.support.stores import contents

Open = Callable[..., Repository]


@pytest.fixture
def key(tmp_path: Path) -> Callable[[str], Path]:
    """Makes, once, a pair of keys with this name; returns the private one's path."""

    def make(name: str) -> Path:
        path = tmp_path / name
        if not path.exists():
            make_keys(path)
        return path

    return make


@pytest.fixture
def opened(url: str, tmp_path: Path, key) -> Open:
    """Opens a bank of the store as a process that signs, and trusts, with the keys named."""

    def open_as(sign: str | None = None, trust: str = "", name: str = "digits") -> Repository:
        bundle = tmp_path / f"trusted-{trust.replace(' ', '-')}"
        bundle.write_text("".join(public(key(k)) for k in trust.split()))
        settings = StoreSettings(
            url=url,
            cache_dir=tmp_path / "cache",
            signing_key_file=sign and key(sign),
            trusted_keys_file=bundle if trust else None,
        )
        return Store.from_settings(settings).repository("banks", name)

    return open_as


def public(private: Path) -> str:
    return private.with_name(f"{private.name}.pub").read_text()


def objects(repository: Repository) -> Objects:
    return repository._shelf.objects


def signatures(repository: Repository) -> list[str]:
    folder = f"{repository._shelf.layout.root}/manifests"
    return [info.path for info in objects(repository).scan(folder) if info.path.endswith(".sig")]


def refused(repository: Repository, version: Version) -> str:
    with pytest.raises(UntrustedVersionError):
        repository.verify(version)
    with pytest.raises(UntrustedVersionError) as caught:
        repository.open(version)
    return caught.value.detail


def test_what_a_trusted_key_signed_is_opened(opened: Open) -> None:
    version = opened(sign="ours").publish({"data": b"good"})
    assert contents(opened(trust="ours"), version) == {"data": b"good"}
    assert len(signatures(opened())) == 1


def test_without_trusted_keys_everything_is_opened_as_before(opened: Open) -> None:
    for sign in (None, "ours"):
        version = opened(sign=sign).publish({"data": str(sign).encode()})
        assert contents(opened(), version)


def test_what_was_opened_stays_whatever_is_done_to_the_store(opened: Open) -> None:
    version = opened(sign="ours").publish({"data": b"good"})
    reader = opened(trust="ours")
    held = reader.open(version)
    objects(reader).write(reader._shelf.layout.blob(version.manifest.files["data"].sha256), b"evil")
    assert held.path("data").read_bytes() == b"good"
    assert contents(reader, version) == {"data": b"good"}, "nor is it needed any more"


def test_an_unsigned_version_is_refused_and_the_message_says_what_to_do(opened: Open) -> None:
    version = opened().publish({"data": b"unsigned"})
    assert "gmem store sign" in refused(opened(trust="ours"), version)


def test_a_version_signed_by_another_key_is_refused(opened: Open) -> None:
    version = opened(sign="theirs").publish({"data": b"theirs"})
    refused(opened(trust="ours"), version)


def test_their_signature_under_the_name_of_our_key_is_refused(opened: Open, key) -> None:
    repository = opened(sign="theirs")
    version = repository.publish({"data": b"theirs"})
    store, layout = objects(repository), repository._shelf.layout
    forged = store.read(signatures(repository)[0])
    store.write(layout.signature(version.digest, Signer.from_file(key("ours")).key_id), forged)
    refused(opened(trust="ours"), version)


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{}", b'{"signature": 7}', b'{"signature": "AAAA"}', b"\xff\xfe"]
)
def test_a_damaged_signature_is_refused(opened: Open, damage: bytes) -> None:
    repository = opened(sign="ours")
    version = repository.publish({"data": b"good"})
    objects(repository).write(signatures(repository)[0], damage)
    refused(opened(trust="ours"), version)
    repository.sign(version)
    assert contents(opened(trust="ours"), version)


def test_a_signature_is_good_for_one_version_only(opened: Open) -> None:
    signing, plain = opened(sign="ours"), opened()
    signing.publish({"data": b"good"})
    evil = plain.publish({"data": b"evil"})
    good = signatures(plain)[0]
    other = plain._shelf.layout.signature(evil.digest, good.split(".")[-2])
    objects(plain).write(other, objects(plain).read(good))
    refused(opened(trust="ours"), evil)


def test_a_signature_copied_to_another_name_is_refused(opened: Open, key) -> None:
    repository = opened(sign="ours")
    version = repository.publish({"data": b"good"})
    store, ours = objects(repository), key("ours")
    trusted, key_id = TrustedKeys.from_file(Path(f"{ours}.pub")), Signer.from_file(ours).key_id
    trusted.check(store, Layout("banks", "digits"), version.digest, "digits@1")
    for kind, name in (("banks", "letters"), ("models", "digits")):
        elsewhere = Layout(kind, name)
        copied = store.read(signatures(repository)[0])
        store.write(elsewhere.signature(version.digest, key_id), copied)
        with pytest.raises(UntrustedVersionError):
            trusted.check(store, elsewhere, version.digest, f"{name}@1")


def test_the_same_content_signed_under_one_name_is_not_signed_under_another(opened: Open) -> None:
    first = opened(sign="ours")
    version = first.publish({"data": b"good"})
    second = opened(name="letters")
    unsigned = second.publish({"data": b"good"})
    key = signatures(first)[0].split(".")[-2]
    objects(second).write(
        second._shelf.layout.signature(unsigned.digest, key),
        objects(first).read(first._shelf.layout.signature(version.digest, key)),
    )
    refused(opened(trust="ours", name="letters"), unsigned)


def test_keys_rotate_readers_trust_both_until_all_is_signed_anew(opened: Open) -> None:
    old = opened(sign="old").publish({"data": b"old"})
    new = opened(sign="new").publish({"data": b"new"})
    for version in (old, new):
        assert contents(opened(trust="old new"), version)
    refused(opened(trust="new"), old)
    opened(sign="new").sign(old)
    assert contents(opened(trust="new"), old)
    assert contents(opened(trust="old"), old), "the old signature is still there"


def test_a_published_version_is_signed_afterwards_as_often_as_one_likes(opened: Open) -> None:
    version = opened().publish({"data": b"unsigned"})
    signing = opened(sign="ours")
    assert signing.sign(version) == signing.sign(version)
    assert contents(opened(trust="ours"), version)
    with pytest.raises(InvalidRequestError, match="GMEM_STORE__SIGNING_KEY_FILE"):
        opened().sign(version)


def test_signatures_are_collected_with_their_version_and_not_before(
    url: str, tmp_path: Path, key
) -> None:
    now = {"shift": timedelta()}
    signer = Signer.from_file(key("ours"))
    store = Store(connect(url), tmp_path / "cache", lambda: utc_now() + now["shift"], signer=signer)
    repository = store.repository("banks", "digits")
    for payload in (b"one", b"two"):
        kept = repository.publish({"data": payload})
    now["shift"] = timedelta(days=30)
    retention = Retention(versions=1, grace=timedelta(0), settle=timedelta(0))
    repository.collect_garbage(retention, lambda _: None)
    assert [kept.digest in path for path in signatures(repository)] == [True]


def test_key_files_that_are_none_stop_the_start(opened: Open, key, tmp_path: Path, url) -> None:
    ours = key("ours")
    public_file = ours.with_name("ours.pub")
    for fields in (
        {"signing_key_file": public_file},
        {"trusted_keys_file": ours},
    ):
        with pytest.raises(InvalidRequestError, match="expected"):
            Store.from_settings(StoreSettings(url=url, cache_dir=tmp_path / "cache", **fields))


def test_a_private_key_is_for_its_owner_alone_and_never_overwritten(key, tmp_path: Path) -> None:
    private = key("ours")
    assert private.stat().st_mode & 0o777 == 0o600
    before = private.read_bytes()
    with pytest.raises(InvalidRequestError, match="expected new files"):
        make_keys(private)
    assert private.read_bytes() == before
