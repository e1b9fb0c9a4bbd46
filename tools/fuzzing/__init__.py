"""Broken inputs for ``tools/fuzz.py``: models, calibration files, labels and recipes, mutated by a seed."""
