"""The part that runs networks and measures what their units do.

What is measured is compiled into a copy of the graph by its ``editor``: ``statistics`` of units, by ``measuring``
(``instrument``, from ``views``, ``columns`` and a ``matrix`` of tensors), and ``moments`` of single tensors.
``segments`` run a network piece by piece, ``patches`` are what a convolution reads. ``enough`` says how many samples it
takes.
"""
