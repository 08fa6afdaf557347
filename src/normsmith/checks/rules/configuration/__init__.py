"""Rules on the settings of norms and of the optimizer, one file each, found by walking the folders."""
