"""The kernels themselves, one file per memory layout, and what compiles them."""
