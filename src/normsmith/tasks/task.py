"""A task: the user's network, data, loss and metric in one object."""
