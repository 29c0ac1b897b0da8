"""Finds the sandbox images on an engine, by their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.errors import FailedPreconditionError

LABEL_IMAGE = "broker.image"
"""Name of a sandbox image, such as ``python``."""
LABEL_INPUTS = "broker.inputs"
"""Digest of all that an image was made from."""
LABEL_WIRE = "broker.wire"
"""Version of the frames that its runner speaks."""
WIRE_VERSION = "3"
CURRENT_TAG = f"current-{WIRE_VERSION}"
"""Tag of the image that was built last: releases whose runners speak otherwise can share an engine."""


@dataclass(frozen=True, slots=True)
class SandboxImage:
    """A sandbox image: ``id`` is ``sha256:...``, the only name under which it is ever run."""

    name: str
    id: str
    inputs: str
    size_bytes: int
    current: bool
    """Whether it is the one that was built last under this name."""


def from_listing(listing: Sequence[Mapping[str, object]]) -> tuple[SandboxImage, ...]:
    """Reads the engine's image list; images of another wire version are left out."""
    images = []
    for item in listing:
        labels = item.get("Labels")
        if not isinstance(labels, Mapping) or labels.get(LABEL_WIRE) != WIRE_VERSION:
            continue
        name, tags = str(labels.get(LABEL_IMAGE, "")), item.get("RepoTags")
        current = isinstance(tags, list) and f"broker-sandbox-{name}:{CURRENT_TAG}" in tags
        size = item.get("Size")
        images.append(
            SandboxImage(
                name=name,
                id=str(item["Id"]),
                inputs=str(labels.get(LABEL_INPUTS, "")),
                size_bytes=size if isinstance(size, int) else 0,
                current=current,
            )
        )
    return tuple(sorted(images, key=lambda image: (image.name, not image.current, image.inputs)))


def choose(images: Sequence[SandboxImage], name: str) -> SandboxImage:
    """The image that a spec means by ``name``: the one built last.

    Raises:
        FailedPreconditionError: the engine has none.
    """
    for image in images:
        if image.name == name and image.current:
            return image
    raise FailedPreconditionError(
        f"the engine has no sandbox image {name!r} that this broker can speak to",
        reason="IMAGE_MISSING",
        hint="run: make images",
        metadata={"image": name},
    )
