"""The files beside ``model.py``, with Triton's utilities replaced by recording ones."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import gmem_generator
from gmem_model.engine import loader
from gmem_shared import triton_io
from gmem_shared.errors import CancelledError
from gmem_shared.store import Store
from gmem_shared.types import GeneratedImage, GenerationTask, VersionRef
from tests.support.engine import PATIENCE_SECONDS, eventually, is_ready, make_task
from tests.support.models import label_config, publish_tiny_model
from tests.support.tracing import spans_in_memory

FOLDER = Path(gmem_generator.__file__).parents[1] / "model_repository" / triton_io.MODEL_NAME / "1"
FINAL = 1


class FakeTritonError:
    INTERNAL, CANCELLED, INVALID_ARG = 1, 2, 3

    def __init__(self, message: str, code: int) -> None:
        self.message, self.code = message, code


class FakeMetricFamily:
    COUNTER = "counter"
    GAUGE = "gauge"
    calls: list[tuple[str, str, dict[str, str], float]]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name = name

    def Metric(self, labels: dict[str, str]) -> Any:
        def record(how: str) -> Any:
            return lambda value: self.calls.append((how, self.name, labels, value))

        return SimpleNamespace(increment=record("increment"), set=record("set"))


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a file of the model's folder as the stub does."""
    FakeMetricFamily.calls = []
    utils = ModuleType("triton_python_backend_utils")
    utils.__dict__.update(
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        Tensor=lambda name, array: SimpleNamespace(name=name, array=array),
        InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(
            error=error, **{tensor.name: tensor.array for tensor in tensors}
        ),
        TritonError=FakeTritonError,
        MetricFamily=FakeMetricFamily,
        get_input_tensor_by_name=lambda request, name: request.tensors.get(name),
    )
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    monkeypatch.syspath_prepend(FOLDER)
    names = ("replies", "mirror", "model")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


class HeldSender:
    """A response sender whose first call waits until it is let go."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int]] = []
        self.entered = threading.Event()
        self.go = threading.Event()

    def send(self, response: Any = None, flags: int = 0) -> None:
        self.entered.set()
        assert self.go.wait(60)
        self.sent.append((response, flags))


def image(position: int) -> GeneratedImage:
    pixels = np.full((2, 2, 1), position, np.uint8)
    return GeneratedImage(position, pixels, VersionRef("m", 1, "sha256-0"), evaluations=4)


def positions(response: Any) -> list[int]:
    (meta,) = getattr(response, triton_io.META)
    found = [entry["position"] for entry in json.loads(meta)]
    assert [int(pixels[0, 0, 0]) for pixels in getattr(response, triton_io.IMAGES)] == found
    return found


def test_images_that_pile_up_leave_together_and_the_end_with_them(beside) -> None:
    sender = HeldSender()
    outbox = beside.replies.Outbox()
    reply = beside.replies.Reply(sender, outbox)
    reply.image(image(0))
    assert sender.entered.wait(60)
    for position in (1, 2, 3):  # none of these calls waits for Triton
        reply.image(image(position))
    reply.done()
    assert reply.ended
    sender.go.set()
    outbox.close()
    assert [(positions(response), flags) for response, flags in sender.sent] == [
        ([0], 0),
        ([1, 2, 3], FINAL),
    ]


def test_triton_is_not_asked_about_a_client_once_the_end_is_on_its_way(beside) -> None:
    asked: list[bool] = []
    gone: list[bool] = []
    sender = HeldSender()
    sender.is_cancelled = lambda: asked.append(True)  # type: ignore[attr-defined]
    outbox = beside.replies.Outbox()
    reply = beside.replies.Reply(sender, outbox)
    reply.done()
    assert sender.entered.wait(60)
    asker = threading.Thread(target=lambda: gone.append(reply.client_gone()))
    asker.start()
    sender.go.set()
    outbox.close()
    asker.join(60)
    assert (gone, asked) == ([False], [])


def test_an_error_follows_the_images_that_were_finished(beside) -> None:
    sender = HeldSender()
    outbox = beside.replies.Outbox()
    reply = beside.replies.Reply(sender, outbox)
    reply.image(image(0))
    assert sender.entered.wait(60)
    reply.image(image(1))
    reply.failed(CancelledError("gone"))
    sender.go.set()
    outbox.close()
    (_, first), (images, second), (failure, last) = sender.sent
    assert (positions(images), first, second, last) == ([1], 0, 0, FINAL)
    assert json.loads(failure.error.message)["code"] == "cancelled"


def test_a_broken_stream_does_not_silence_the_others(beside) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("stream is gone")

    outbox = beside.replies.Outbox()
    beside.replies.Reply(SimpleNamespace(send=broken), outbox).done()
    sender = HeldSender()
    sender.go.set()
    beside.replies.Reply(sender, outbox).done()
    outbox.close()
    assert sender.sent == [(None, FINAL)]


def test_metrics_are_mirrored_by_what_changed(beside) -> None:
    registry = CollectorRegistry()
    counter = Counter("c_total", "c", ("reason",), registry=registry)
    gauge = Gauge("g", "g", registry=registry)
    mirror = beside.mirror.MetricsMirror(registry)
    counter.labels("x").inc(3)
    gauge.set(5)
    mirror.update()
    counter.labels("x").inc(2)
    gauge.set(4)
    mirror.update()
    mirror.update()
    assert FakeMetricFamily.calls == [
        ("increment", "c_total", {"reason": "x"}, 3),
        ("set", "g", {}, 5),
        ("increment", "c_total", {"reason": "x"}, 2),
        ("set", "g", {}, 4),
    ]


def test_a_histogram_is_mirrored_as_its_series(beside) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", buckets=(1.0, 2.0), registry=registry)
    histogram.observe(1.5)
    beside.mirror.MetricsMirror(registry).update()
    assert {
        (name, *labels.values()): value for _, name, labels, value in FakeMetricFamily.calls
    } == {
        ("h_bucket", "1.0"): 0,
        ("h_bucket", "2.0"): 1,
        ("h_bucket", "+Inf"): 1,
        ("h_count",): 1,
        ("h_sum",): 1.5,
    }


class Sender(HeldSender):
    """A response sender that holds up nothing, and whose client can go away."""

    def __init__(self) -> None:
        super().__init__()
        self.go.set()
        self.gone = False

    def is_cancelled(self) -> bool:
        return self.gone

    @property
    def ended(self) -> bool:
        return any(flags == FINAL for _, flags in self.sent)

    @property
    def code(self) -> str:
        """The code of the error that ended the reply."""
        response, flags = self.sent[-1]
        assert flags == FINAL
        return str(json.loads(response.error.message)["code"])


class Tensor:
    def __init__(self, array: Any) -> None:
        self.array = array

    def as_numpy(self) -> Any:
        return self.array


def ask(
    model: Any,
    operation: triton_io.Operation,
    task: GenerationTask | None = None,
    carrier: dict[str, str] | None = None,
) -> Sender:
    """Have the model execute one request."""
    arrays: dict[str, Any] = {
        triton_io.OPERATION: np.array([operation.model_dump_json().encode()], object)
    }
    if task is not None:
        arrays |= {
            triton_io.SNIPPETS: task.snippets,
            triton_io.LABELS: task.labels,
            triton_io.SEEDS: task.seeds,
            triton_io.INDICES: task.indices,
        }
    tensors = {name: Tensor(array) for name, array in arrays.items() if array is not None}
    sender = Sender()
    request = SimpleNamespace(
        tensors=tensors,
        get_response_sender=lambda: sender,
        parameters=lambda: json.dumps(carrier or {}),
    )
    model.execute([request])
    return sender


def generate(model: Any, /, carrier: dict[str, str] | None = None, **changes: Any) -> Sender:
    task = make_task(**changes)
    operation = triton_io.Generate(
        id=task.id,
        model=task.model,
        encoder=task.encoder,
        num_steps=task.num_steps,
        guidance_scale=task.guidance_scale,
    )
    return ask(model, operation, task, carrier)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path), cache_dir=tmp_path)


@pytest.fixture
def model(
    beside: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The model as Triton runs it, over a store with a tiny network."""
    publish_tiny_model(store)
    monkeypatch.setenv("GMEM_STORE__URL", str(tmp_path))
    monkeypatch.setenv("GMEM_GENERATOR__DEFAULT_MODEL", "tiny")
    monkeypatch.setattr(beside.model.logs, "configure", lambda _: None)
    before = set(threading.enumerate())
    made = beside.model.TritonPythonModel()
    made.initialize({})
    eventually(lambda: is_ready(made._host))
    yield made
    made.finalize()
    assert set(threading.enumerate()) <= before  # above all none that would end this process


def test_a_client_that_went_away_is_noticed_although_metrics_fail(model, monkeypatch) -> None:
    def broken() -> None:
        raise RuntimeError("no metrics")

    monkeypatch.setattr(model._metrics, "update", broken)
    sender = generate(model, n=64, num_steps=1000)
    sender.gone = True
    eventually(lambda: sender.ended)
    assert sender.code == "cancelled"


def test_an_id_is_free_again_when_its_task_has_ended(model) -> None:
    first = generate(model, id="same", n=64, num_steps=1000)
    refused = generate(model, id="same")
    eventually(lambda: refused.ended)
    assert refused.code == "conflict"
    ask(model, triton_io.Cancel(id="same"))
    eventually(lambda: first.ended)
    second = generate(model, id="same", num_steps=1)
    eventually(lambda: second.ended)
    assert positions(second.sent[0][0]) == [0]


def test_what_waits_for_a_version_holds_up_nothing_and_can_be_cancelled(
    model, store, monkeypatch
) -> None:
    go, open_network = threading.Event(), loader.open_network

    def held(*args: Any) -> Any:
        assert go.wait(PATIENCE_SECONDS)
        return open_network(*args)

    monkeypatch.setattr(loader, "open_network", held)
    publish_tiny_model(store, name="cold")
    waiting = [
        generate(model, id=f"cold-{i}", model="cold", n=64, num_steps=1000) for i in range(40)
    ]
    loaded = generate(model, num_steps=1)
    described = ask(model, triton_io.Describe(model="tiny"))
    try:
        eventually(lambda: loaded.ended and described.ended)
        assert not any(sender.ended for sender in waiting)
        for i in range(len(waiting)):
            ask(model, triton_io.Cancel(id=f"cold-{i}"))
    finally:
        go.set()
    eventually(lambda: all(sender.ended for sender in waiting))
    assert {sender.code for sender in waiting} == {"cancelled"}


def test_labels_and_guidance_reach_the_engine(model, store) -> None:
    publish_tiny_model(store, name="sit", config=label_config())
    made = []
    for labels, scale in (([0, 1, 2], None), ([0, 1, 2], 1.5), ([2, 1, 0], None), ([0, 1, 2], 4.0)):
        sender = generate(
            model, model="sit", n=3, snippets=None, encoder=None,
            labels=np.array(labels, np.int32), guidance_scale=scale,
        )  # fmt: skip
        eventually(lambda sender=sender: sender.ended)
        made.append(pixels(sender))
    own, same, reordered, guided = made
    assert own == same
    assert [a == b for a, b in zip(own, reordered, strict=True)] == [False, True, False]
    assert not set(own) & set(guided)


def pixels(sender: Sender) -> list[bytes]:
    """The images of a reply, by position."""
    images = {
        position: image.tobytes()
        for response, _ in sender.sent
        if hasattr(response, triton_io.IMAGES)
        for position, image in zip(
            [entry["position"] for entry in json.loads(response.META[0])],
            response.IMAGES,
            strict=True,
        )
    }
    return [images[position] for position in sorted(images)]


@pytest.fixture
def told(logged: list[dict[str, Any]]) -> Callable[[], list[dict[str, Any]]]:
    """What the log says of ended tasks."""
    return lambda: [line for line in logged if line["event"] == "engine.task.finished"]


TRACE = "0af7651916cd43dd8448eb211c80319c"
CARRIER = {"x-request-id": "r1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def test_a_task_is_told_of_once_under_the_id_of_its_request(model, told) -> None:
    sender = generate(model, carrier=CARRIER, id="t1", n=3)
    eventually(lambda: sender.ended and told())
    (line,) = told()
    assert (line["task"], line["request_id"], line["trace_id"]) == ("t1", "r1", TRACE)
    assert (line["images"], line["code"]) == (3, "ok")
    assert {"queue", "denoise", "decode"} <= set(line)


def test_a_task_that_is_refused_is_told_of_under_the_id_of_its_request(model, told) -> None:
    sender = generate(model, carrier=CARRIER, num_steps=10**6)
    eventually(lambda: sender.ended and told())
    (line,) = told()
    assert (line["code"], line["request_id"]) == ("out_of_range", "r1")


def test_the_stages_of_the_last_image_become_spans_of_the_trace(model) -> None:
    with spans_in_memory() as exporter:
        sender = generate(model, carrier=CARRIER, n=3)
        eventually(lambda: sender.ended)
        eventually(lambda: len(exporter.get_finished_spans()) == 3)
        queue, denoise, decode = exporter.get_finished_spans()
    assert (queue.name, denoise.name, decode.name) == ("queue", "denoise", "decode")
    assert {f"{span.context.trace_id:032x}" for span in (queue, denoise, decode)} == {TRACE}
    assert queue.start_time <= queue.end_time == denoise.start_time < denoise.end_time
