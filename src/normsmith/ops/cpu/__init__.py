"""Batch norm on CPUs: kernels compiled by numba, one file per memory layout."""
