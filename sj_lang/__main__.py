"""`python -m sj_lang` is `sj-lang`, so that `torchrun -m sj_lang run ...` works."""

import sys

from sj_lang.cli import main

if __name__ == "__main__":
    sys.exit(main())
