"""The stages of a merge, in order; each takes what the stages before it found, as frozen dataclasses, and gives more.

prepare   ``options`` and ``consistency`` say what is asked for, ``prepare`` reads, pairs up and types the models,
          ``separation`` cuts off heads, ``resizing`` widens, ``beginning`` does all that and opens the data; what all
          later stages share is a ``job``.
measure, match   ``matching`` gathers statistics and matches units by one of the ``methods``, ``rotating`` rotates them.
forecast  ``forecasting`` says what a merge will come to, from what its parents do on a few samples.
select    ``selection`` tries ways to merge on held-out data, or by labels.
combine, refine   ``restoring`` averages and restores statistics, or solves layers anew; ``answering`` solves the last
          layers for what ``meanings`` found outputs to mean.
validate  ``validate`` requires finite values, compares the merged model with its parents, and counts what it costs.
publish   ``publish`` keeps outputs apart from inputs, ``provenance`` says what was merged and how.
"""
