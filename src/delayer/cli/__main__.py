"""`python -m delayer.cli`."""

from delayer.cli import main

if __name__ == "__main__":
    main()
