"""Fingerprints of saved documents: a hash of a document's content and of the tensors that belong to it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from action_heads._util.limits import shown
from action_heads.io.files import WeightFileError, fingerprint

CHANGED = (
    "{path} and its config have fingerprint {found}, but were saved with {given}: one of them was changed, or they "
    "come from different saves, which a save that was killed leaves too. Download them again (force_download=True), or "
    "save them again."
)


@dataclass(frozen=True)
class Seal:
    """The fingerprint of one kind of document.

    Attributes:
        uncovered: keys of the document that the fingerprint does not cover.
        changed: the error for a document that was changed, a format string of {path}, {found} and {given}.
        key: the key that holds the fingerprint.
    """

    uncovered: tuple[str, ...] = ()
    changed: str = CHANGED
    key: str = "fingerprint"

    def meaning(self, document: Mapping[str, Any]) -> str:
        """Return the part of a document that the fingerprint covers, as JSON."""
        apart = {self.key, *self.uncovered}
        return json.dumps({key: value for key, value in document.items() if key not in apart}, sort_keys=True)

    def of(self, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Return the fingerprint of a document and its tensors."""
        return fingerprint(tensors, self.meaning(document))

    def check(self, document: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str | Path) -> bool:
        """Check the fingerprint of a document; return False if it has none, as documents of older releases may.

        Raises:
            WeightFileError: the fingerprint is that of other contents.
        """
        if self.key not in document:
            return False
        if document[self.key] != (found := self.of(document, tensors)):
            raise WeightFileError(self.changed.format(path=path, found=found, given=shown(document[self.key])))
        return True

    def check_or_warn(
        self, document: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str | Path, remedy: str = ""
    ) -> None:
        """Check the fingerprint of a document, and warn if it has none."""
        if not self.check(document, tensors, path):
            warnings.warn(
                f"{path} has no fingerprint, since an older release wrote it, so changes to it go unnoticed{remedy}",
                stacklevel=5,
            )
