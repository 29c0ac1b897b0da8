"""sql.execute: changes rows of a PostgreSQL database by one statement, planned, shown, applied and taken back as rows.

Runs in the sandbox image ``postgres``, whose package ``broker_rows`` does the work; docs/sql.md says how.
"""

import sys

from broker_rows.program import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
