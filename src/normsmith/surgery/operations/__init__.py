"""The public verbs of surgery, one file each."""
