"""`python -m mediaserver` is the command `chatterline`."""

from mediaserver.cli import main

if __name__ == "__main__":
    main()
