import copyreg
import io
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gmem_model.importing import edm2_pickle
from gmem_model.importing.edm2 import read_edm2
from gmem_model.importing.edm2_pickle import read_records
from gmem_shared.errors import InvalidRequestError
from tests.support import edm2


class Call:
    """Unpickled by calling a function."""

    def __init__(self, function, *args) -> None:
        self._reduced = (function, args)

    def __reduce__(self):
        return self._reduced


@pytest.fixture
def file(tmp_path):
    return tmp_path / "snapshot.pkl"


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


PAYLOADS = {
    "os.system": lambda canary: Call(os.system, f"touch {canary}"),
    "os.mkdir": lambda canary: Call(os.mkdir, str(canary)),
    "eval": lambda canary: Call(eval, f"open({str(canary)!r}, 'w').close()"),
    "exec": lambda canary: Call(exec, f"open({str(canary)!r}, 'w').close()"),
    "open": lambda canary: Call(open, str(canary), "w"),
    "subprocess.Popen": lambda canary: Call(subprocess.Popen, ["touch", str(canary)]),
    "torch.save": lambda canary: Call(torch.save, 1, str(canary)),
    "torch.load": lambda canary: Call(torch.load, str(canary)),
    "pickle.loads": lambda canary: Call(pickle.loads, b"N."),
    "builtins.getattr": lambda canary: Call(getattr, 3, "real"),
    "pathlib.Path.touch": lambda canary: Call(Path.touch, canary),
    "module": lambda canary: torch.nn.Linear(1, 1),
}
NAMES = {
    "os.system": "posix.system",
    "os.mkdir": "posix.mkdir",
    "eval": "builtins.eval",
    "exec": "builtins.exec",
    "open": "(_io|io).open",
    "torch.save": "torch.serialization.save",
    "torch.load": "torch.serialization.load",
    "pickle.loads": "_pickle.loads",
    "module": "torch.nn.modules.linear.Linear",
}


def top(content, payload):
    return payload


def unknown_key(content, payload):
    return {**content, "extra": [payload]}


def encoder_state(content, payload):
    content["encoder"].meta["state"]["_vae"] = payload
    return content


def network_option(content, payload):
    content["ema"].meta["state"]["_init_kwargs"]["dropout"] = payload
    return content


def parameter(content, payload):
    content["ema"].meta["state"]["_parameters"]["weight"] = payload
    return content


def source(content, payload):
    content["ema"].meta["module_src"] = payload
    return content


def numpy_elements(content, payload):
    content["encoder"].meta["state"]["scale"] = np.array([payload, None], dtype=object)
    return content


PLACES = [top, unknown_key, encoder_state, network_option, parameter, source, numpy_elements]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_named_and_not_executed(file, canary, payload, place) -> None:
    content = place(edm2.snapshot(edm2.network()), PAYLOADS[payload](canary))
    named = NAMES.get(payload, payload).replace(".", r"\.")
    with pytest.raises(InvalidRequestError, match=f"refused.*'{named}'.*nothing was executed"):
        read_edm2(edm2.write(file, content))
    assert not canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_payload_in_the_bytes_of_a_storage_is_named_and_not_executed(
    file, canary, zipped
) -> None:
    stored = io.BytesIO()
    payload = Call(os.mkdir, str(canary))
    torch.save(payload, stored, _use_new_zipfile_serialization=zipped)
    inner = Call(torch.storage._load_from_bytes, stored.getvalue())
    tensor = Call(torch._utils._rebuild_tensor_v2, inner, 0, (1,), (1,), False, {})
    content = parameter(edm2.snapshot(edm2.network()), tensor)
    with pytest.raises(InvalidRequestError, match=r"refused.*'posix\.mkdir'"):
        read_edm2(edm2.write(file, content))
    assert not canary.exists()


def test_a_storage_that_holds_something_else_is_refused(file) -> None:
    stored = io.BytesIO()
    torch.save({"a": 1}, stored)
    inner = Call(torch.storage._load_from_bytes, stored.getvalue())
    tensor = Call(torch._utils._rebuild_tensor_v2, inner, 0, (1,), (1,), False, {})
    content = parameter(edm2.snapshot(edm2.network()), tensor)
    with pytest.raises(InvalidRequestError, match=r"values of a tensor.*found a dict"):
        read_edm2(edm2.write(file, content))


def test_the_source_text_in_a_snapshot_is_not_executed(file, canary) -> None:
    text = f"open({str(canary)!r}, 'w').close()"
    content = edm2.snapshot(edm2.network())
    content["ema"].meta["module_src"] = text
    read_edm2(edm2.write(file, content))
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_payload_of_every_protocol_is_refused(file, canary, protocol) -> None:
    file.write_bytes(pickle.dumps(Call(os.mkdir, str(canary)), protocol))
    with pytest.raises(InvalidRequestError, match=r"'posix\.mkdir'"):
        read_records(file)
    assert not canary.exists()


def test_the_opcode_that_names_and_calls_at_once_is_refused(file, canary) -> None:
    file.write_bytes(b"(S'%s'\nios\nmkdir\n." % str(canary).encode())
    with pytest.raises(InvalidRequestError, match=r"'os\.mkdir'"):
        read_records(file)
    assert not canary.exists()


def test_a_registered_extension_is_refused(file, canary) -> None:
    copyreg.add_extension("os", "mkdir", 0xF0)
    try:
        file.write_bytes(b"\x80\x02\x82\xf0(S'%s'\ntR." % str(canary).encode())
        with pytest.raises(InvalidRequestError, match=r"'os\.mkdir'"):
            read_records(file)
    finally:
        copyreg.remove_extension("os", "mkdir", 0xF0)
    assert not canary.exists()


@pytest.mark.parametrize("name", edm2_pickle._STAND_INS)
def test_a_file_cannot_alter_what_stands_in_for_a_name(file, name) -> None:
    """BUILD with a pair of dictionaries sets attributes of whatever it is applied to."""
    module, attribute = (part.encode() for part in name)
    state = b"}(X\x01\x00\x00\x00aK\x01u"
    stand_in = edm2_pickle._STAND_INS[name]
    before = dict(vars(stand_in))
    for built in (state, b"N" + state + b"\x86"):
        file.write_bytes(b"\x80\x02c%s\n%s\n%sb." % (module, attribute, built))
        with pytest.raises(InvalidRequestError, match="refused"):
            read_records(file)
    assert dict(vars(stand_in)) == before


def test_reading_imports_nothing(file) -> None:
    before = set(sys.modules)
    read_records(edm2.write(file, edm2.snapshot(edm2.network())))
    assert set(sys.modules) == before


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(file, share) -> None:
    edm2.write(file, edm2.snapshot(edm2.network()))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InvalidRequestError, match="a part of one"):
        read_records(file)


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"\x00", b"not a pickle", b"\x80\x04)b."])
def test_something_else_is_refused(file, content) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=r"expected a whole network snapshot"):
        read_records(file)


def test_a_missing_file_is_said_to_be_missing(file) -> None:
    with pytest.raises(InvalidRequestError, match="check the path"):
        read_records(file)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04N" + b"r" + struct.pack("<I", 2**32 - 1) + b".",  # a memo of 64 GiB
        b"\x80\x04Np4294967295\n.",
    ],
)
def test_a_file_that_asks_for_a_huge_memo_is_refused(file, content) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidRequestError, match="operations or places"):
        read_records(file)


def test_a_file_that_announces_more_bytes_than_it_has_is_refused(file) -> None:
    file.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"short.")
    with pytest.raises(InvalidRequestError, match="a part of one"):
        read_records(file)


def test_a_file_of_too_many_operations_is_refused(file, monkeypatch) -> None:
    monkeypatch.setattr(edm2_pickle, "MAX_OPERATIONS", 100)
    file.write_bytes(b"\x80\x04" + b"N" * 200 + b".")
    with pytest.raises(InvalidRequestError, match="more than 100 operations"):
        read_records(file)


def test_deep_nesting_is_read_or_refused_but_ends(file) -> None:
    depth = 20_000
    file.write_bytes(b"\x80\x04" + b"N" + b"\x85" * depth + b".")
    assert isinstance(read_records(file), tuple)
    with pytest.raises(InvalidRequestError, match="no network snapshot"):
        read_edm2(file)
