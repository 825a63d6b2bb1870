"""ONNX graphs of the explainable towers, built operator by operator.

``ops`` appends operators, ``weights`` holds a tower's arrays, ``forward`` is the encoder with a last block that
computes one row, ``vjp`` and ``dense`` are the gradient written as forward operations, ``explained`` stacks the
explained blocks, ``towers`` puts whole graphs together.
"""
