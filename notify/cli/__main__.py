"""`python -m notify.cli`, which is also how `notify serve --workers` starts its workers."""

import sys

from notify.cli import main

sys.exit(main())
