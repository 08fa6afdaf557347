"""Rules on data and statistics, one file each, found by walking the folders."""
