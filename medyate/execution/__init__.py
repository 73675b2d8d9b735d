"""Execution: a model that really keeps only what a selection pays for."""
