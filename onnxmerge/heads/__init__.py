"""Separate heads: a trunk that all parents share, and behind its border each parent's own tail."""
