"""Detectors: wiring, targets, losses and decoding."""
