"""Pipelines whose steps are poison, for workers."""

from __future__ import annotations
