"""Combine models whose units correspond, then give back what averaging takes.

``combine`` averages weights along the matchings. What averaging takes from the statistics of units comes back by
``repair``; ``closed_form`` solves linear layers anew instead. ``task_vectors`` combines models of one pretraining
without any matching. ``reconstruction`` tells how well any of it went.
"""
