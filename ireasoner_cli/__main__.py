"""The program, `ireasoner` or `python -m ireasoner_cli`."""

from ireasoner_cli.starting import end_at_once


def main() -> None:
    """The console script."""
    end_at_once()
    from ireasoner_cli import app  # the imports take a while

    app.main()


if __name__ == "__main__":
    main()
