"""Pictures follow into the bucket of output.mirror, behind the local file: `bucket` does it, `mirror` says which, when.

Nothing that is paid for waits for it. What is left is what the ledger says is left, so a kill at any moment costs a
picture put again at most.
"""

from batchflux.engine.mirroring.mirror import Mirror
from batchflux.engine.mirroring.opening import open_mirror

__all__ = ["Mirror", "open_mirror"]
