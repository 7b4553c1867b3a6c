"""Transformers copies the code of a model to its cache: a folder of these tests, not the user's."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("HF_MODULES_CACHE", tempfile.mkdtemp(prefix="nanochat-test-modules-"))
