"""Runs: a frozen config in, a record out."""
