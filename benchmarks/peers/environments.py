"""The peers' virtual environments: made once, from PyPI, pinned, away from the product's."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

RUNTIME = ("numpy==2.4.6", "onnxruntime==1.32.0", "pillow==13.0.0")
"""What every peer runs the network with."""

PEERS: dict[str, tuple[str, ...]] = {
    "litserve": (*RUNTIME, "litserve==0.2.19"),
    "bentoml": (*RUNTIME, "bentoml==1.4.40"),
    "pipeline": (*RUNTIME, "fastapi==0.165.0", "uvicorn==0.54.0"),
    "hnswlib": ("numpy==2.4.6", "hnswlib==0.8.0"),
    "qdrant": ("numpy==2.4.6", "qdrant-client==1.20.0"),
    "milvus_lite": ("numpy==2.4.6", "pymilvus==3.0.2", "milvus-lite==3.2.2"),
}


def environment(peer: str, folder: Path) -> Path:
    """Return the ``bin`` folder of a peer's environment; install it when the pins are new."""
    home = folder / peer
    stamp, wanted = home / "installed.json", json.dumps(PEERS[peer])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing {', '.join(PEERS[peer])} …", flush=True)
        venv.create(home, clear=True, with_pip=True)
        pip = [home / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", *PEERS[peer]], check=True)
        stamp.write_text(wanted)
    return home / "bin"


if __name__ == "__main__":
    for name in sys.argv[1:] or PEERS:
        print(environment(name, Path(".gmem/bench/venvs")))
