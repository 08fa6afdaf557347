"""Several models made one: their statistics, or all of their weights. One file for each public function."""
