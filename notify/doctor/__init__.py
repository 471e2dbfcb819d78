"""What `notify doctor` looks at: everything that has to be right for a notification to arrive, one check at a time.

Keeps the promise that a finding says what is wrong and how to mend it, in the operator's words, and never holds a secret.
Each check stands alone and is bounded: one that can't be made says so, and the others go on.
"""

from notify.doctor.examination import examine
from notify.doctor.findings import Finding, Verdict

__all__ = ["Finding", "Verdict", "examine"]
