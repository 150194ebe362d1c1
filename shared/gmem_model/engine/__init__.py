"""Continuous batching at the granularity of one network evaluation."""
