"""Rules on how a network is trained and evaluated, one file each, found by walking the folders."""
