import sys

from mailing.main import main

if __name__ == "__main__":
    sys.exit(main())
