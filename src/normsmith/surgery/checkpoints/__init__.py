"""Files of weights, as training scripts write them: read without executing what is in them, written whole."""
