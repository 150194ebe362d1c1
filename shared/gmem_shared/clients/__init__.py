"""Clients of our services; each implements a port."""
