"""Formats: files on disk -> annotations, and annotations -> files on disk."""
