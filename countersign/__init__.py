"""Countersign: agents and people change infrastructure through one gate."""

__version__ = "0.1.0"
