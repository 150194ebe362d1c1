"""Contracts shared by every service: errors, types, ports, settings, versioned store, clients."""

__version__ = "0.1.0"
