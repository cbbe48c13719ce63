"""`python -m darkprune`."""

import sys

from darkprune.cli import main

sys.exit(main())
