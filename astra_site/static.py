"""Static files: collected once into the data directory, served before Django is asked."""

from __future__ import annotations

from django.contrib.staticfiles.storage import ManifestStaticFilesStorage


class ManifestStorage(ManifestStaticFilesStorage):
    """Names files by their content. A template that names a missing file still renders, with the plain name."""

    manifest_strict = False
