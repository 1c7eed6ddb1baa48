"""Synthetic handwriting: writers, templates, stroke data, endless streams."""
