"""Files that belong to images by their names."""

import unicodedata

from hdit_core.data.sources.attachments import PartnerFiles
from hdit_core.data.sources.resolve import open_source
from tests.data.sources.files.test_folder_and_archive import write_folder, write_zip


def test_condition_images_match_across_unicode_normalization_forms(tmp_path):
    composed, other = (unicodedata.normalize(form, "a/caf\u00e9") for form in ("NFC", "NFD"))
    images = open_source(str(write_folder(tmp_path / "images", {f"{composed}.png": b"i", "a/b.png": b"j"})))
    partners = open_source(str(write_zip(tmp_path / "c.zip", {f"{other}.jpg": b"one", "a/b.jpg": b"two"})))
    found = PartnerFiles(partners, images.entries, "c.zip")
    content = {entry.name: found.fetch(number) for number, entry in enumerate(images.entries)}
    assert content == {f"{composed}.png": b"one", "a/b.png": b"two"}
