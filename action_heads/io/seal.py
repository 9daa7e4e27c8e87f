"""Seals: the fingerprint that a document carries, of what it says and of the tensors that belong to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from action_heads._util.limits import shown
from action_heads.io.files import WeightFileError, fingerprint

CHANGED = (
    "{path} and its config have fingerprint {found}, but were saved as {given}: one of them was changed, or they are "
    "from different saves. Download them again (force_download=True), or save them again."
)


@dataclass(frozen=True)
class Seal:
    """How one kind of document is sealed.

    Attributes:
        uncovered: keys of the document that may change under the same fingerprint.
        changed: the error about a document that was changed, with {path}, {found} and {given} to be filled in.
        key: the key of the fingerprint itself.
    """

    uncovered: tuple[str, ...] = ()
    changed: str = CHANGED
    key: str = "fingerprint"

    def meaning(self, document: Mapping[str, Any]) -> str:
        """Return the part of a document that the fingerprint covers, as text."""
        apart = {self.key, *self.uncovered}
        return json.dumps({key: value for key, value in document.items() if key not in apart}, sort_keys=True)

    def of(self, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Return the fingerprint of a document and its tensors."""
        return fingerprint(tensors, self.meaning(document))

    def check(self, document: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str | Path) -> bool:
        """Return whether a document carries a fingerprint, which those of older releases may lack.

        Raises:
            WeightFileError: it carries that of other contents.
        """
        if self.key not in document:
            return False
        if document[self.key] != (found := self.of(document, tensors)):
            raise WeightFileError(self.changed.format(path=path, found=found, given=shown(document[self.key])))
        return True
