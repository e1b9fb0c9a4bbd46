"""Merges written down: what to merge, on what data, and how, in one YAML file."""
