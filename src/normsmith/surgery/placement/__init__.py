"""Where norms can stand, and the edits that put them there."""
