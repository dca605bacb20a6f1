"""Makes the Python-only machine of this folder importable as `bios_machine`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
