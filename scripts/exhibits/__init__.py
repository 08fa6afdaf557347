"""The parts of the gallery page: see scripts/gallery.py."""
