"""Prometheus, Grafana and OpenTelemetry around the product; Python only where it makes files."""
