"""What a unit is and how it moves.

``layout`` says which spaces of units there are and where they stand in each tensor; typing (``axes``) finds that out.
``permutations``, ``zips`` and ``rotation`` carry tensors along, ``alignment`` does so along single axes, ``resize``
gives spaces another size. ``groups`` are the spaces that are matched together, ``graph`` shows all of it (networkx).
"""
