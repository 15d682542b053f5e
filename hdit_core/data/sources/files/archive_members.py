"""The contents of an archive as after unpacking: later members replace earlier ones, and links are resolved."""

import posixpath
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

MOST_LINKS = 40  # maximum number of consecutive links, as in Linux


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive, not a folder."""

    name: str
    offset: int  # offset of its content; in a zip, its index
    size_bytes: int
    changed_at: int
    problem: str | None  # the reason why it cannot be read
    hard_link: str | None = None  # the member whose content it shares
    symbolic_link: str | None = None  # a path relative to its folder


def tidy_name(name: str) -> str:
    """Return the name of a member on disk, without `./`, doubled slashes and a slash at its start."""
    return re.sub(r"/(\.?/)+", "/", re.sub(r"^(\.?/+)+", "", name))


def _is_folder(place: str, names: Sequence[str]) -> bool:
    """Return whether some of the names, which are sorted, are below a path."""
    first = bisect_left(names, f"{place}/")
    return first < len(names) and names[first].startswith(f"{place}/")


def _follow(member: Member, found: dict[str, Member], names: Sequence[str]) -> Member:
    """Return a member with the content of its symbolic link's target; `names` are the sorted ones of all members."""
    place, target = member.name, member
    for _ in range(MOST_LINKS):
        if target.symbolic_link is None:
            return replace(
                member, offset=target.offset, size_bytes=target.size_bytes, changed_at=target.changed_at,
                problem=target.problem, symbolic_link=None,
            )  # fmt: skip
        place = posixpath.normpath(posixpath.join(posixpath.dirname(place), target.symbolic_link))
        if place.startswith(("/", "../")) or place == "..":
            return replace(member, problem="a link to a target outside the archive")
        if place not in found:
            is_folder = _is_folder(place, names)
            what = "a link to a folder, which is listed under its own name" if is_folder else "a broken link"
            return replace(member, problem=what)
        target = found[place]
    return replace(member, problem="a link to itself")


def _through_folder_links(member: Member, found: dict[str, Member], links: set[str]) -> Member:
    """Return a member under its name on disk: a member below a link to a folder is unpacked into that folder."""
    name = member.name
    for _ in range(MOST_LINKS):
        parents = (name[: slash.start()] for slash in re.finditer("/", name))
        link = next((parent for parent in parents if parent in links), None)
        if link is None:
            return replace(member, name=name)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(link), found[link].symbolic_link or ""))
        if target.startswith(("/", "../")) or target == "..":
            return replace(member, problem="in a folder that is a link to a target outside the archive")
        name = posixpath.normpath(target + name[len(link) :])
    return replace(member, problem="in a folder that is a link to itself")


def unpacked(members: Iterable[Member]) -> tuple[list[Member], list[str]]:
    """Return the members that remain after unpacking an archive, and the names that occur several times.

    Args:
        members: in the order of the archive. A hard link shares the content that its target has at that point.
    """
    found: dict[str, Member] = {}
    links: set[str] = set()
    repeated: list[str] = []
    for member in members:
        member = replace(member, name=tidy_name(member.name))
        if links:
            member = _through_folder_links(member, found, links)
        if member.hard_link is not None:
            target = found.get(tidy_name(member.hard_link))
            if target is None or target.name == member.name:
                member = replace(member, problem="a hard link to a file that is not in the archive")
            else:
                member = replace(target, name=member.name)
        if found.pop(member.name, None) is not None:
            repeated.append(member.name)
            links.discard(member.name)
        found[member.name] = member
        if member.symbolic_link is not None:
            links.add(member.name)
    names = sorted(found) if links else []
    return [
        _follow(member, found, names) if member.symbolic_link is not None else member for member in found.values()
    ], repeated
