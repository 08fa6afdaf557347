"""Batch norm on NVIDIA GPUs, in Triton: `backend` is the row of the table, `forward` and `backward` launch kernels."""
