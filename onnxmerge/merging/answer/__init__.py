"""What a merged network should answer: its parents' ensemble, solved into the last linear layer in closed form.

``meaning`` says what an output is (logits, probabilities, an embedding), ``ensemble`` what the parents say together in
that meaning, ``last_layer`` which linear layer gives the output and what it reads, and ``answer`` solves that layer.
"""
