"""`python -m tests.chaos`; see docs/chaos.md."""

import sys

from tests.chaos.command import main

sys.exit(main())
