"""The Grafana dashboards, from the specs of the metrics they show.

``python -m observability.dashboards`` (``make dashboards``) writes them into
``observability/grafana/dashboards``.
"""
