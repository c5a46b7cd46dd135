"""``python -m twotower`` is ``twotower``."""

from twotower.cli import main

# Processes that it starts import this module, and are not to begin anew.
if __name__ == "__main__":
    main()
