"""Metrics of others that dashboards and alerts use: Triton's and Prometheus's own."""

from __future__ import annotations

from gmem_shared.telemetry import MetricSpec

UP = MetricSpec("up", "1 when the last scrape of a target succeeded.")
ALERTS = MetricSpec(
    "ALERTS", "1 for an alert that waits or fires.", ("alertname", "alertstate", "severity")
)

_MODEL = ("model", "version")

TRITON_SUCCESS = MetricSpec("nv_inference_request_success", "Requests answered.", _MODEL)
TRITON_FAILURE = MetricSpec(
    "nv_inference_request_failure", "Requests that failed, by reason.", (*_MODEL, "reason")
)
TRITON_REQUEST_MICROSECONDS = MetricSpec(
    "nv_inference_request_duration_us", "Time of all requests together.", _MODEL
)
TRITON_QUEUE_MICROSECONDS = MetricSpec(
    "nv_inference_queue_duration_us", "Time that all requests waited for the model.", _MODEL
)
TRITON_PENDING = MetricSpec(
    "nv_inference_pending_request_count", "Requests that wait for the model.", _MODEL
)

ALL = tuple(value for value in vars().values() if isinstance(value, MetricSpec))
