"""FastAPI around a pipeline, as diffusers' server examples: a thread per request, one at a time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from sampler import Pipeline

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])

app = FastAPI()
pipeline = Pipeline(FOLDER)
lock = threading.Lock()


@app.post("/generate")
def generate(request: dict[str, Any]) -> dict[str, Any]:
    """Make the images of one request."""
    with lock:
        return pipeline([request])[0]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
