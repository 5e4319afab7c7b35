"""Timings of this package and others; not installed with it."""
