"""``fairlead`` and ``python -m fairlead``: the command line."""

import sys


def main() -> int:
    """Run the command that the process was started with; Ctrl-C while it is still being imported ends it as later."""
    try:
        from fairlead.cli import main as command
    except KeyboardInterrupt:
        print("fairlead: interrupted", file=sys.stderr)
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())
