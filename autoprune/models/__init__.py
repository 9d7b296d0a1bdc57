"""What AutoPrune knows of model families: their parts, geometry and fingerprint. Torch-free at import."""

from __future__ import annotations

from autoprune.models.family import Family, Places, family_of, geometry_of
from autoprune.models.fingerprint import Fingerprint, fingerprint, live_fingerprint
from autoprune.models.folder import read_geometry

__all__ = [
    "Family",
    "Fingerprint",
    "Places",
    "family_of",
    "fingerprint",
    "geometry_of",
    "live_fingerprint",
    "read_geometry",
]
