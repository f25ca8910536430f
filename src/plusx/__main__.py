"""`python -m plusx` is the `plusx` command."""

from plusx.cli import main

raise SystemExit(main())
