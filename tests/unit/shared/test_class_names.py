from pathlib import Path

import pytest

from gmem_shared.class_names import read_class_names
from gmem_shared.errors import InvalidRequestError
from gmem_shared.types import ClassInfo


def test_aliases_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('[{"id": 1, "name": "cat"}, {"id": 0, "name": "dog", "aliases": ["n02"]}]')
    assert read_class_names(path) == [ClassInfo(1, "cat"), ClassInfo(0, "dog", ("n02",))]


@pytest.mark.parametrize("content", ["", "[1]", '[{"id": "one", "name": "cat"}]', '[{"id": 1}]'])
def test_anything_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(InvalidRequestError, match=r"classes\.json"):
        read_class_names(path)
