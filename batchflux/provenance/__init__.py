"""What a picture says of its origin: the marks that an export puts into its file, and those that it came with.

Marks go between the parts of a file that hold no pixels; nothing that is there is taken out or written over. A file
that its provider signed (C2PA) stays as it is, since any other byte breaks the signature.
"""

from batchflux.provenance.about import MARKS, About
from batchflux.provenance.marking import C2PA, Marked, carries, kept, marked

__all__ = ["C2PA", "MARKS", "About", "Marked", "carries", "kept", "marked"]
