"""``python -m bvit_analysis.cli``."""

import sys

from bvit_analysis.cli.main import main

sys.exit(main())
