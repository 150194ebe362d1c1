from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gmem_shared.errors import InvalidRequestError
from gmem_shared.store import FileEntry, Manifest
from gmem_shared.store.canonical import digest_of, to_json


@given(st.binary(max_size=100), st.integers(1, 40))
def test_an_entry_lists_the_digest_of_every_chunk(content: bytes, chunk_size: int) -> None:
    entry = FileEntry.of(content, chunk_size)
    pieces = [content[i : i + chunk_size] for i in range(0, len(content), chunk_size)]
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert entry.chunks == tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)
    assert [entry.chunk_length(i) for i in range(len(pieces))] == [len(p) for p in pieces]


def test_a_file_and_its_bytes_have_the_same_entry(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # larger than one read
    (tmp_path / "file").write_bytes(content)
    assert FileEntry.of(tmp_path / "file", 1 << 20) == FileEntry.of(content, 1 << 20)


@pytest.mark.parametrize(
    "change",
    [{"chunks": []}, {"size": 100}, {"size": -1}, {"chunk_size": 0}, {"sha256": "../../x"}],
)
def test_an_entry_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FileEntry.model_validate(FileEntry.of(b"12345", 2).model_dump() | change)


def test_canonical_json_is_pinned() -> None:
    manifest = Manifest.build(
        kind="banks",
        name="digits",
        files={"a": FileEntry.of(b"12345", 4)},
        metadata={"ü": [1, 0.1, None, True], "a": {}},
    )
    assert manifest.to_bytes().decode() == (
        '{"files":{"a":{"chunk_size":4,"chunks":'
        '["03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4",'
        '"ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d"],'
        '"sha256":"5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5",'
        '"size":5}},"kind":"banks","metadata":{"a":{},"ü":[1,0.1,null,true]},'
        '"name":"digits","schema_version":1}'
    )
    assert (
        Manifest.from_bytes(manifest.to_bytes(), digest_of(manifest.to_bytes()), "path") == manifest
    )


@pytest.mark.parametrize("value", [float("inf"), {1, 2}, {"a": b""}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="JSON"):
        to_json(value)
