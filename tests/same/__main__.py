"""`python -m tests.same --old COMMIT`."""

import sys

from tests.same.command import main

sys.exit(main())
