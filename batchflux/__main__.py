"""Run batchflux as `python -m batchflux`."""

from batchflux.cli import main

if __name__ == "__main__":
    main()
