"""Calibration data: where samples come from, how they are read, cut into batches and split."""
