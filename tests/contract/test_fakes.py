"""The doubles keep to the ports: same methods, same parameters, same kinds of functions."""

from __future__ import annotations

import inspect

import pytest

from gmem_shared.ports import Backend, BankSource
from tests.support.fakes import FakeBackend, FakeBank


def methods(cls: type) -> dict[str, object]:
    return {name: member for name, member in vars(cls).items() if not name.startswith("_")}


@pytest.mark.parametrize(("port", "fake"), [(BankSource, FakeBank), (Backend, FakeBackend)])
def test_a_double_has_every_method_of_its_port(port, fake) -> None:
    for name in methods(port):
        declared = inspect.signature(getattr(port, name)).parameters
        offered = inspect.signature(getattr(fake, name)).parameters
        assert list(offered.values()) == list(declared.values()), name
        awaited = inspect.iscoroutinefunction(getattr(port, name))
        assert inspect.iscoroutinefunction(getattr(fake, name)) == awaited, name
