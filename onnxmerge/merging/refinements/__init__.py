"""Solve or correct a matched average anew, without labels and without training: ``--refine``."""
