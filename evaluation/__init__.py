"""Evaluation of a network on labelled samples: predictions, metrics, mistakes, the report."""
