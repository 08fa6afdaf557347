"""Rules on activations and gradients over a few training steps, one file each, found by walking the folders."""
