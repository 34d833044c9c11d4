"""Chatterbox Turbo from its official ONNX bundle, through ONNX Runtime. Nothing that is imported here needs torch.

Nor does the package import its engine: the command line looks at `files` and `hub` without ONNX Runtime.
"""
