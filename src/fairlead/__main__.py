"""``python -m fairlead``: the command line."""

import sys

from fairlead.cli import main

sys.exit(main())
