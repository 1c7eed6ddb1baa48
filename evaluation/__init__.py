"""Evaluation of a network on labelled samples: scores, figures, mistakes, the report."""
