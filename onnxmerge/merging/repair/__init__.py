"""Give the units of a merged network the statistics that averaging took: REPAIR's modes, and BatchNorm's own.

``repair`` is the method; ``batchnorm`` its form where BatchNorm is kept; ``plan`` says which layers and what they
should have, ``moments`` and ``in_graph`` what they have in the network as it runs, ``choice`` what is tried.
"""
