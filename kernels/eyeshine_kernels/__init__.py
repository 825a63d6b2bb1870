"""Triton kernels for what stays around the ONNX graph. NAME/{reference,kernel}.py; none are here yet."""
