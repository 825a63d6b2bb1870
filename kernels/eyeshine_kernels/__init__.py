"""Triton kernels for what stays around the ONNX graph, each a folder NAME/{reference,kernel}.py of its own.

``reference.py`` (NumPy) is the definition, ``kernel.py`` (Triton) computes the same; ``backend.resolve`` picks one,
explicitly. Importing this package imports neither torch nor triton.
"""
