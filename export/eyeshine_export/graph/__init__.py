"""ONNX graphs of the explainable towers, built operator by operator.

``ops`` appends operators, ``weights`` holds a tower's arrays, ``forward`` is the encoder with a last block that
computes one row, ``vjp`` is the gradient written as forward operations, ``towers`` puts them together.
"""
