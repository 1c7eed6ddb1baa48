"""Scores of a network on labelled glyphs: figures, analysis, report."""
