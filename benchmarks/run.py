"""Every benchmark, one after another: `python -m benchmarks.run`."""

from benchmarks import study_speed


def main() -> None:
    """Run all; each prints its table and writes it to `results/`."""
    study_speed.main()


if __name__ == "__main__":
    main()
