"""Triton kernels (CUDA only): what PyTorch would do in several passes over memory, in one."""
