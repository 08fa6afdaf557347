"""What scripts/explorer.py trains and writes."""
