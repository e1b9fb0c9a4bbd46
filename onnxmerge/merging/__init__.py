"""Bring models into the coordinates of the first and combine them, then give back what averaging takes.

``transport`` and ``zip_transport`` move weights by a matching, ``combine`` averages them. What averaging takes from the
statistics of units comes back by ``repair``; ``closed_form`` solves linear ``layers`` anew instead. ``task_vectors``
combines models of one pretraining without any matching. ``reconstruction`` tells how well any of it went.
"""
