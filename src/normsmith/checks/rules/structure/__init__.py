"""Rules on how norms stand in a network, one file each, found by walking the folders."""
