"""Measurement: an independent evaluator, retrieval scores, and the emoji world's experiments."""
