"""Handwriting made on the spot: writers, templates, stroke data, endless streams."""
