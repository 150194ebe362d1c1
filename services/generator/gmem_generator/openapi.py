"""The OpenAPI document: what FastAPI cannot know by itself."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.models import Example
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from gmem_generator.negotiation import EVENTS, JSON, PNG
from gmem_generator.problems import MEDIA_TYPE
from gmem_generator.schemas import GenerateRequest, Problem, ReplayRequest

_REF = "#/components/schemas/{model}"
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
_MEANING = {
    400: "Malformed: broken JSON, an unknown field, a wrong type.",
    401: "No API key, or none that is known; only where the server asks for keys.",
    403: "The API key does not allow this.",
    404: "Unknown class, bank, model, version, row or sampler.",
    406: "`Accept` allows none of the offered representations.",
    409: (
        "Bank and model were made with different encoders, the model takes no such thing, or the "
        "state does not allow it."
    ),
    413: "The body is too large.",
    415: "The body is not said to be `application/json`.",
    422: "Well-formed, but a value is out of range.",
    429: (
        "The queue is full (`overloaded`), and `Retry-After` is computed from the backlog; such a "
        "request may be refused before anybody looks whether it is a good one. Or the caller's "
        "quota is used up (`over_quota`), and `Retry-After` says until when."
    ),
    503: "A part is starting, draining or away; see `detail` and `Retry-After`.",
    504: "The deadline passed.",
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_RETRIED = frozenset({429, 503})

Responses = dict[int | str, dict[str, Any]]

GENERATE_EXAMPLES: dict[str, Example] = {
    "class": {"summary": "Four sevens", "value": {"class_label": 7, "num_images": 4, "seed": 42}},
    "name": {
        "summary": "By name, with fewer steps",
        "value": {"class_label": "seven", "num_steps": 8},
    },
    "any": {"summary": "Any class", "value": {}},
    "rows": {"summary": "From chosen rows of the memory", "value": {"memory": {"rows": [17, 3]}}},
}

GENERATE_HEADERS = {
    "parameters": [
        {
            "name": "Prefer",
            "in": "header",
            "description": "`respond-async`: answer with a job (202), which may have more images.",
            "schema": {"type": "string", "examples": ["respond-async"]},
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": (
                "Any text of your own, such as a UUID. Whoever repeats the request with it gets "
                "the same images, or the same job."
            ),
            "schema": {"type": "string", "pattern": "^[!#-~]{1,255}$"},
        },
    ]
}

METRICS_RESPONSES: Responses = {
    200: {
        "description": "Prometheus text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


def problem_responses(*statuses: int) -> Responses:
    """Document the errors of a route; each is a `Problem`."""
    documented: Responses = {
        status: {
            "description": _MEANING[status],
            "content": _PROBLEM,
            **({"headers": _RETRY_AFTER} if status in _RETRIED else {}),
        }
        for status in statuses
    }
    documented["default"] = {"description": "Any other error.", "content": _PROBLEM}
    return documented


def job_result_responses() -> Responses:
    """Document the two ways to a result."""
    return {
        200: {
            "description": "The result.",
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        },
        307: {
            "description": "The result is at `Location`, for a while.",
            "headers": {"Location": {"schema": {"type": "string"}}},
        },
        **problem_responses(404, 409, 422, 503),
    }


def job_events_responses() -> Responses:
    """Document the events of a job."""
    progress = "event: progress\ndata: {…a job without its request…}\n\n"
    content = {EVENTS: {"schema": {"type": "string"}, "example": progress}}
    return {
        200: {"description": "The progress.", "content": content},
        **problem_responses(404, 422, 503),
    }


def generate_responses() -> Responses:
    """Document the representations and errors of ``POST /generate``."""
    stream = (
        "event: image\ndata: {…one of `images`…}\n\n"
        "event: completed\ndata: {…the rest of the answer…}\n\n"
    )
    ok = {
        "description": "The images.",
        "content": {
            PNG: {"schema": {"type": "string", "format": "binary"}},
            EVENTS: {"schema": {"type": "string"}, "example": stream},
        },
    }
    return {200: ok, **problem_responses(*_MEANING)}


def job_responses() -> Responses:
    """Document the answer to a submission: what `POST /generate` does not say by itself."""
    reference = {"$ref": _REF.format(model="JobAnswer")}
    return {
        202: {
            "description": "`Prefer: respond-async`: a job, at `Location`.",
            "content": {JSON: {"schema": reference}},
            "headers": {
                "Location": {"schema": {"type": "string"}},
                "Preference-Applied": {"schema": {"type": "string"}},
            },
        }
    }


def install(app: FastAPI, **maxima: int) -> None:
    """Complete the document when it is first asked for.

    Args:
        app: The application, with all its routes.
        maxima: Upper bounds of fields of `GenerateRequest` that are settings of this server.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, maxima)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's documented way to extend it


def _document(app: FastAPI, maxima: dict[str, int]) -> dict[str, Any]:
    document = get_openapi(
        title="gmem-serving",
        version=version("gmem-serving"),
        summary="Images from generative models with an explicit memory.",
        description=(
            "To a model with a memory, a class label is a query of its bank: each image is made "
            "from one row drawn from it, and the answer says which. Models that take the label "
            "itself, or nothing, are served beside them. Errors are problems of RFC 9457."
        ),
        routes=app.routes,
    )
    # FastAPI turns every bound into a float, and 2^64 - 1 is none.
    _, exact = models_json_schema(
        [
            (GenerateRequest, "validation"),
            (ReplayRequest, "validation"),
            (Problem, "serialization"),
        ],
        ref_template=_REF,
    )
    for field, maximum in maxima.items():
        exact["$defs"]["GenerateRequest"]["properties"][field]["anyOf"][0]["maximum"] = maximum
    document["components"]["schemas"].update(exact["$defs"])
    return document
