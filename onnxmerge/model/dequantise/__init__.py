"""The float network that a quantised one stands for, and the scheme by which it was quantised.

Integers have no mean, so parents are taken apart before they are merged: weights become the numbers that their codes
stand for, operators on integers those on floats, and what rounds activations goes. Known are QuantizeLinear and
DequantizeLinear in pairs, QLinearConv, QLinearMatMul and their likes of com.microsoft, dynamic quantisation
(DynamicQuantizeLinear with MatMulInteger or ConvInteger, DynamicQuantizeMatMul) and MatMulNBits.

``networks`` walks over the nodes, and hands each to the reader of its operator: ``pairs``, ``qlinear``, ``dynamic`` or
``packed``, or ``moving`` for what only moves integers about. A reader puts the float form of its node in its place.
Readers share a ``translation``: which integers stand for which floats so far, the ``float_graph`` that is made, and
``notes`` of whose scale is whose. When all are read, the notes become the scheme, for which scales that are shared by
chance are parted (``own_scales``). ``bounds`` puts back the Relus that quantisers took out.
"""

from onnxmerge.model.dequantise.networks import Dequantised, dequantised, is_quantised

__all__ = ["Dequantised", "dequantised", "is_quantised"]
