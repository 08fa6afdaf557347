"""Statistics of what reaches each layer, over batches of data; nothing is changed."""
