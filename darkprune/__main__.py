"""`python -m darkprune`."""

import sys

from darkprune.cli.entry import main

sys.exit(main())
