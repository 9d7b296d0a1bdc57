"""Documents held against everything that can be known without running them.

Reads the real registries; torch, optuna, ray and mlflow stay out.
"""

from autoprune.check.documents import CheckedDocument, check_any
from autoprune.check.goals import shared_device
from autoprune.check.records import records_source
from autoprune.check.specs import Checked, check, is_hub_id, model_name

__all__ = [
    "Checked",
    "CheckedDocument",
    "check",
    "check_any",
    "is_hub_id",
    "model_name",
    "records_source",
    "shared_device",
]
