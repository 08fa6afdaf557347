"""`python -m normsmith` is `normsmith`."""

from normsmith.cli import main

if __name__ == "__main__":
    main()
