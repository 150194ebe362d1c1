"""The versioned store of banks and models: immutable versions, create-only records.

The protocol is specified in ``docs/formats/store.md``. This package alone imports obstore.
"""

from gmem_shared.store.aliases import AliasRecord
from gmem_shared.store.gc import Retention
from gmem_shared.store.leases import Lease
from gmem_shared.store.manifest import FileEntry, Manifest
from gmem_shared.store.opened import OpenVersion
from gmem_shared.store.repository import Repository
from gmem_shared.store.results import Results
from gmem_shared.store.store import Store
from gmem_shared.store.version import Version

__all__ = [
    "AliasRecord",
    "FileEntry",
    "Lease",
    "Manifest",
    "OpenVersion",
    "Repository",
    "Results",
    "Retention",
    "Store",
    "Version",
]
