"""Entry of the `launchbay` command and of `python -m launchbay`."""

from launchbay.cli import main

if __name__ == "__main__":
    main()
