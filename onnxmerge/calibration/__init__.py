"""Calibration: data sources, and statistics of activations compiled into the graph."""
