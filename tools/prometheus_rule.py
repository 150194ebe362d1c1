"""Wrap Prometheus' rules for its operator: ``python tools/prometheus_rule.py``.

The rules are written once, where Prometheus itself reads them. Kustomize includes no file from
outside its folder, so a copy lies in ``k8s/``; a test holds it equal.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "observability/prometheus/rules/gmem.yml"
WRAPPED = ROOT / "k8s/components/monitoring/rules.yaml"

HEAD = """\
# Written by `make k8s-rules` from observability/prometheus/rules/gmem.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: gmem
  labels: {app.kubernetes.io/name: gmem, app.kubernetes.io/part-of: gmem}
spec:
"""


def wrapped(rules: str) -> str:
    """Return a PrometheusRule whose ``spec`` is the file of rules, comments and all."""
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in rules.splitlines())


if __name__ == "__main__":
    WRAPPED.write_text(wrapped(RULES.read_text()))
