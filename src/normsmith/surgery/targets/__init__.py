"""The layers that take the place of others."""
