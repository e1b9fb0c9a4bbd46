"""The part that runs networks and measures what their units do.

``statistics`` of units are compiled into the graph (``instrument``, with a ``builder``, from ``views``, ``columns`` and
a ``matrix`` of tensors), ``moments`` are those of single tensors, ``segments`` run a network piece by piece, and
``patches`` are what a convolution reads. ``enough`` says how many samples measuring takes.
"""
