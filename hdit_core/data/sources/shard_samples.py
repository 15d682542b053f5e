"""Reads the samples of a webdataset shard: members are joined by key, in any order."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hdit_core.data.image.decode import size_problem
from hdit_core.data.sources.file_filter import is_hidden
from hdit_core.data.sources.files.archive_members import Member
from hdit_core.data.sources.files.tar import LARGEST_NOTE_BYTES, TarListing
from hdit_core.data.sources.files.tar_headers import LONGEST_NAME_BYTES
from hdit_core.data.sources.labels.label_notation import MOST_CLASSES, parse_label
from hdit_core.data.sources.labels.sidecars import is_label_file
from hdit_core.data.sources.labels.text_encoding import decode_text
from hdit_core.data.sources.source import IMAGE_SUFFIX, Entry

_CAPTIONS = frozenset({"txt", "text", "caption"})  # suffixes of texts in shards of other programs
_LABELS = ("cls", "class", "label", "lbl", "target")
_NOTES = (*_LABELS, "json")
_NOT_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates other than those for bytes that are not UTF-8


@dataclass(frozen=True, slots=True)
class ShardPart:
    """The position of a condition image or a caption in a shard; a caption may be a value in a JSON file."""

    offset: int
    size_bytes: int
    changed_at: int
    in_json: bool = False


def caption_of(about: dict[str, object]) -> str | None:
    """Return the caption in the JSON file of a sample; several, such as a short and a long one, as JSON."""
    caption = about.get("caption")
    if isinstance(caption, list | dict) and caption:
        return json.dumps(caption, ensure_ascii=False)
    return caption if isinstance(caption, str) and caption else None


@dataclass(frozen=True, slots=True)
class ShardImage:
    """An image in a shard, or the problem of a sample."""

    name: str
    offset: int = 0
    size_bytes: int = 0
    changed_at: int = 0
    problem: str | None = None
    class_number: int | None = None
    class_name: str | None = None
    condition: ShardPart | None = None
    caption: ShardPart | None = None

    def entry(self, classes: Sequence[str]) -> Entry:
        """Return it as an entry of a source; if there are classes, it needs one."""
        if self.problem is not None:
            return Entry(self.name, self.size_bytes, self.changed_at, self.problem)
        name = self.class_name if self.class_number is None else classes[self.class_number]
        missing = "no class in its shard" if classes and name is None else None
        return Entry(self.name, self.size_bytes, self.changed_at, missing, name)


@dataclass(slots=True)
class _Notes:
    """The description of an image by the texts of its sample."""

    cls: str | None = None
    name: str | None = None
    json_class: str | int | float | None = None
    json_label: int | None = None  # has to agree with `cls`
    has_caption: bool = False
    problem: str | None = None

    @property
    def is_labelled(self) -> bool:
        return self.cls is not None or self.json_class is not None

    @property
    def describes_image(self) -> bool:
        return self.is_labelled or self.has_caption or self.name is not None

    def parse_class(self) -> tuple[str | None, int | None, str | None]:
        """Return the problem, the class index, and the class name."""
        label = self.json_class if self.cls is None else self.cls
        if label is None:
            return self.problem, None, None
        try:
            number = parse_label(label)
        except ValueError as problem:
            return str(problem), None, None
        if isinstance(number, str):
            return self.problem, None, number
        if not 0 <= number < MOST_CLASSES:
            what = "negative" if number < 0 else f"beyond {MOST_CLASSES - 1:,}"
            return f"its class number is {what}", None, None
        if self.cls is not None and self.json_label not in (None, number):
            return f"its class is {number} in .cls and {self.json_label} in .json", None, None
        name = self.json_class if isinstance(self.json_class, str) and self.cls is not None else None
        return self.problem, number, name


@dataclass(slots=True)
class _Sample:
    """The members that share a key."""

    images: list[Member] = field(default_factory=list)
    notes: list[Member] = field(default_factory=list)
    conditions: list[Member] = field(default_factory=list)
    captions: list[Member] = field(default_factory=list)

    def attached_problem(self) -> str | None:
        """Return the problem of the condition image or the caption."""
        if len(self.conditions) > 1:
            return f"{len(self.conditions)} condition images of one sample"
        for member in (*self.conditions, *self.captions[:1]):
            if problem := member.problem or (size_problem(member.size_bytes) if member.size_bytes else None):
                return f"its .{_suffix(member.name)}: {problem}"
        return None


def _key(name: str) -> str:
    """Return the name up to the first dot of its last part, like webdataset."""
    folder, slash, last = name.rpartition("/")
    first, _, _ = last.partition(".")
    return f"{folder}{slash}{first or last}"


def _suffix(name: str) -> str:
    """Return the suffix after the first dot of the last part of a name, in lower case."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def _is_array(name: str) -> bool:
    return name.lower().endswith(".npy")


def _is_condition(name: str) -> bool:
    """Return whether a member is a condition image: `KEY.cond.png`, `KEY.cond.npy`, ..."""
    kind, _, ending = _suffix(name).partition(".")
    return kind == "cond" and (ending == "npy" or IMAGE_SUFFIX.fullmatch(f".{ending}") is not None)


def _stem(name: str) -> str:
    """Return the name without its last suffix: `img_0.3` of `img_0.3.jpg`."""
    return name.rpartition(".")[0]


def _ending(name: str) -> str:
    """Return the last suffix of a name in lower case; that of `0.cls.txt` is cls."""
    parts = name.rpartition("/")[2].lower().split(".")
    if parts[-1] in _CAPTIONS and len(parts) > 2 and parts[-2] in _LABELS:
        return parts[-2]
    return parts[-1] if len(parts) > 1 else ""


def is_note(name: str) -> bool:
    """Return whether a member may contain the class of an image, so that it is kept when a tar is listed."""
    return not is_hidden(name) and (_ending(name) in _NOTES or is_label_file(name))


def _read_json(notes: _Notes, content: bytes) -> None:
    about = json.loads(decode_text(content))
    if not isinstance(about, dict):
        return
    notes.has_caption = caption_of(about) is not None
    name, label = about.get("name"), about.get("label") if about.get("class") is None else about["class"]
    if isinstance(name, str) and _NOT_BYTES.search(name):
        notes.problem = "the name in its .json has half of a surrogate pair"
    elif isinstance(name, str) and 0 < len(name) <= LONGEST_NAME_BYTES:
        notes.name = name
    if isinstance(label, str | int | float) and not isinstance(label, bool):
        notes.json_class = label
    if isinstance(about.get("label"), int) and not isinstance(about["label"], bool):
        notes.json_label = about["label"]


def _read_notes(members: Sequence[Member], contents: dict[int, bytes]) -> _Notes:
    """Return the description from the texts of a sample."""
    notes = _Notes()
    endings = [_ending(member.name) for member in members]
    kinds = [ending == "json" for ending in endings]
    for member, ending in zip(members, endings, strict=True):
        if kinds.count(ending == "json") > 1:
            notes.problem = f"several .{ending} files have its key"
        elif member.problem or member.size_bytes > LARGEST_NOTE_BYTES:
            notes.problem = f"its .{ending}: {member.problem or f'{member.size_bytes:,} bytes'}"
        else:
            try:
                if ending == "json":
                    _read_json(notes, contents[member.offset])
                else:
                    notes.cls = decode_text(contents[member.offset])
            except (ValueError, RecursionError):
                notes.problem = f"its .{ending} cannot be read"
    return notes


def _split(sample: _Sample) -> list[_Sample]:
    """Return one sample for each image if every image has its own texts: `a.1.jpg`, `a.1.cls`, `a.2.jpg`, ..."""
    parts = {_stem(image.name): _Sample([image]) for image in sample.images}
    if len(sample.images) < 2 or len(parts) < len(sample.images):
        return [sample]
    for note in sample.notes:
        if _stem(note.name) not in parts:
            return [sample]
        parts[_stem(note.name)].notes.append(note)
    return list(parts.values()) if all(part.notes for part in parts.values()) else [sample]


def _images(key: str, sample: _Sample, contents: dict[int, bytes], shard: str) -> Iterator[tuple[ShardImage, bool]]:
    """Yield the image of a sample, and whether it is labeled; no image and several images are problems."""
    notes = _read_notes(sample.notes, contents)
    if not sample.images:
        yield ShardImage(f"{shard}/{key}", problem="a sample without an image"), notes.is_labelled
    several = f"one of {len(sample.images)} images of one sample" if len(sample.images) > 1 else None
    wrong, class_number, class_name = notes.parse_class()
    wrong = wrong or sample.attached_problem()
    condition, caption = _part(sample.conditions), _part(sample.captions)
    if caption is None and notes.has_caption:
        caption = _part([note for note in sample.notes if _ending(note.name) == "json"], in_json=True)
    for image in sample.images:
        problem = image.problem or size_problem(image.size_bytes) or several or wrong
        name = f"{shard}/{image.name}" if several or notes.name is None else notes.name
        where = (image.offset, image.size_bytes, image.changed_at)
        yield ShardImage(name, *where, problem, class_number, class_name, condition, caption), notes.is_labelled


def _part(members: Sequence[Member], in_json: bool = False) -> ShardPart | None:
    """Return the position of the first of some members, None if there is none or it is empty."""
    if not members or not members[0].size_bytes:
        return None
    return ShardPart(members[0].offset, members[0].size_bytes, members[0].changed_at, in_json)


def _samples(listing: TarListing, shard: str) -> tuple[dict[str, _Sample], list[ShardImage]]:
    """Return the samples of a shard by key, and the other members."""
    samples: dict[str, _Sample] = {}
    others: list[ShardImage] = []
    captions: list[Member] = []
    keys_of_images = {_key(member.name) for member in listing.members if _is_image(member.name)}
    for member in listing.members:
        ending, key = _ending(member.name), _key(member.name)
        if is_hidden(member.name):
            continue
        if ending in _CAPTIONS:
            captions.append(member)
        elif _is_condition(member.name):
            samples.setdefault(key, _Sample()).conditions.append(member)
        elif _is_image(member.name) or (_is_array(member.name) and key not in keys_of_images):
            samples.setdefault(key, _Sample()).images.append(member)
        elif ending in _NOTES:
            samples.setdefault(key, _Sample()).notes.append(member)
        else:
            problem = f"a .{ending[:20]} file of a shard, which is never opened"
            others.append(ShardImage(f"{shard}/{member.name}", problem=problem))
    for member in captions:
        if (key := _key(member.name)) in samples:
            samples[key].captions.append(member)
    return samples, others


def _is_image(name: str) -> bool:
    return IMAGE_SUFFIX.search(name) is not None and not _is_condition(name)


@dataclass(frozen=True)
class ShardContents:
    """The contents of a shard, in order, and whether its labels belong to its images."""

    images: list[ShardImage]
    labelled: int  # images with labels
    orphans: int  # labels without an image


def read_shard(listing: TarListing, shard: str) -> ShardContents:
    """Return the contents of a shard; the name of an image is that in its `.json`, else that in the shard."""
    samples, others = _samples(listing, shard)
    images: list[ShardImage] = []
    labelled = orphans = 0
    for key, sample in samples.items():
        for part in _split(sample):
            for image, is_labelled in _images(key, part, listing.notes, shard):
                has_file = bool(part.images)
                images.append(image)
                labelled += is_labelled and has_file
                orphans += is_labelled and not has_file
    return ShardContents(images + others, labelled, orphans)


def is_sharded(listing: TarListing) -> bool:
    """Return whether a tar is a webdataset shard: it contains images, and classes (`.cls`) or descriptions of them."""
    members = [member for member in listing.members if not is_hidden(member.name)]
    images = {_key(member.name) for member in members if _is_image(member.name) or _is_array(member.name)}
    in_one_folder = len({key.rpartition("/")[0] for key in images}) == 1
    notes = [one for one in members if _ending(one.name) in _NOTES]
    beside = [one for one in notes if _ending(one.name) in _LABELS or _key(one.name) in images]
    # In class folders, a .json without class, caption or name is that of an annotation tool.
    return bool(images) and any(in_one_folder or _read_notes([one], listing.notes).describes_image for one in beside)
