"""Batch norm on NVIDIA GPUs, in Triton: `backend` is the row of the table, `kernels` what runs on the device."""
